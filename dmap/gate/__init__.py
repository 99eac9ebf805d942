"""
Whoever wants a model goes through here: tickets and futures, the switch task, asking a device's backends.

It is the asyncio side of `arbiter`, its counterpart, which decides.  `gate` has the door itself, `changeover`
carries switches out by way of `fleet`, `lease` is what a request holds.
"""

from dmap.gate.gate import Gate
from dmap.gate.lease import Beat, Lease, Waiting
from dmap.gate.switchlog import Tell

__all__ = ["Beat", "Gate", "Lease", "Tell", "Waiting"]
