"""
The model servers, whatever their kind.

`base` says what dmap asks of a server, `kind` what makes a kind of servers; `dmap.kinds` has all kinds.
Each kind is a folder beside these: its `__init__` has the one `Kind`, and whatever is particular about such
servers is in that folder and nowhere else.  Nobody outside names a kind, and no kind imports another.
"""

from dmap.backends.ask import Unheard, ask
from dmap.backends.base import Backend, Forwarding, Loaded, Switcher, Target, trouble_of
from dmap.backends.kind import Engine, EngineUnusable, Kind
from dmap.backends.sections import BackendSection, PassingSection
from dmap.models import ModelInfo

__all__ = [
    "Backend",
    "BackendSection",
    "Engine",
    "EngineUnusable",
    "Forwarding",
    "Kind",
    "Loaded",
    "ModelInfo",
    "PassingSection",
    "Switcher",
    "Target",
    "Unheard",
    "ask",
    "trouble_of",
]
