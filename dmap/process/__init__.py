"""
The life of a child process: its start, what it says, its end, and that nothing of it is left.

It knows nothing of what the program does.  A kind of backend that runs its own servers makes one `Child` for
each and says itself when it is ready.  `end_orphans` is for the start: it ends what a killed daemon left.
"""

from dmap.process.child import END_S, Child, run_once
from dmap.process.environment import clean_environment, secrets_in, short_environment
from dmap.process.log import Log
from dmap.process.marks import end_orphans

__all__ = [
    "END_S",
    "Child",
    "Log",
    "clean_environment",
    "end_orphans",
    "run_once",
    "secrets_in",
    "short_environment",
]
