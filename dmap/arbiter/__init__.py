"""
Who may use a device next: a pure state machine that hears of events, with the time, and returns effects.

No clock, no loop, no I/O, and nothing of dmap's outside this package.  `core` opens with how it works; the
counterpart that carries the effects out is `dmap.gate`, and `dmap.simulate` runs it under virtual time.
"""

from dmap.arbiter.core import Arbiter
from dmap.arbiter.effects import Cause, Effect, Grant, Reason, Refuse, Stop, Switch
from dmap.arbiter.lengths import Learnt, Lengths
from dmap.arbiter.outlook import Outlook
from dmap.arbiter.state import Limits, Needs, Outcome, Place, Plan, Snapshot, Wait
from dmap.arbiter.view import ModelView, View

__all__ = [
    "Arbiter",
    "Cause",
    "Effect",
    "Grant",
    "Learnt",
    "Lengths",
    "Limits",
    "ModelView",
    "Needs",
    "Outcome",
    "Outlook",
    "Place",
    "Plan",
    "Reason",
    "Refuse",
    "Snapshot",
    "Stop",
    "Switch",
    "View",
    "Wait",
]
