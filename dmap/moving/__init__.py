"""
Moving over from another switcher: its configuration in, dmap's out.

What comes out is a text for an owner to read, in the order of `config.example.yaml`.  Whatever has no equal
stands in it as a comment.  Nothing is started or asked here.
"""

from dmap.moving.llama_swap import imported, problems_of

__all__ = ["imported", "problems_of"]
