"""
Attacks on a running dmap by real programs: what may never pass, freeze it, or break it in silence.

    python -m bench.attack                     # everything, under six minutes
    python -m bench.attack --only bypass,hosts  # some of it

Behind the real daemon are a FastAPI, a Go and a Node server that tell what they read.  Its packages are the
extra `soak`; Go and Node are left out where they are missing, and the table says so.
"""
