"""
Who may ask, and how much: addresses, keys, scopes, quotas, over plain values.  Knows no web framework.
"""

from dmap.access.admission import Access, Client, scope_of

__all__ = ["Access", "Client", "scope_of"]
