"""
Where a request is answered first: pure arithmetic over places that may serve its model.

A place is a device of this box, or another box; nothing here knows which.  No clock, no loop, no I/O, and
nothing of dmap's outside this package.  `ranking` has the rule, and why it is the rule.
"""

from dmap.placement.ranking import Place, Standing, first

__all__ = ["Place", "Standing", "first"]
