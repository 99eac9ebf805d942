"""
The model servers, whatever their kind.

`base` says what dmap asks of a server.  Each kind is a folder beside it and imports no other kind.
"""

from dmap.backends.base import Backend, Loaded, Switcher, Target
from dmap.backends.trouble import trouble_of
from dmap.models import ModelInfo

__all__ = ["Backend", "Loaded", "ModelInfo", "Switcher", "Target", "trouble_of"]
