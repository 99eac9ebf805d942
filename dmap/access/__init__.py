"""
Which clients may ask, and how much: addresses, keys, scopes, quotas, over plain values.  No web framework.
"""

from dmap.access.admission import Access, Client, scope_of
from dmap.access.quota import Verdict

__all__ = ["Access", "Client", "Verdict", "scope_of"]
