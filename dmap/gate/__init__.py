"""
Requests for a model go through here: tickets and futures, the switch task, asking a device's backends.

It is the asyncio side of `arbiter`, its counterpart, which decides.  `gate` has the door itself, `lease`
is what a request holds, and `upkeep` carries out switches and looks at the backends.
"""

from dmap.gate.gate import Gate
from dmap.gate.lease import Lease

__all__ = ["Gate", "Lease"]
