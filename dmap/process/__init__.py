"""
The life of a child process: its start, its last words, its end.

It knows nothing of what the program does.  A kind of backend that runs its own servers makes one `Child` for
each and says itself when it is ready.
"""

from dmap.process.child import Child, LastLines, clean_environment

__all__ = ["Child", "LastLines", "clean_environment"]
