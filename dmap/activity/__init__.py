"""
The activity log: a line for each request and each switch, kept for a week.

`entry` is the format, and reads it; `facts` makes entries of events, `files` keeps them, `log` is what runs.
Nobody's words are in the log, and no addresses.
"""

from dmap.activity.entry import Entries, Entry, Request, Switch, line_of
from dmap.activity.log import ActivityLog

__all__ = ["ActivityLog", "Entries", "Entry", "Request", "Switch", "line_of"]
