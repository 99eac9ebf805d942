"""
The activity log: a line for each request and each switch, kept for a week.

`entry` is the format, and reads it.  Nobody's words are in it, and no addresses.
"""

from dmap.activity.entry import Entries, Entry, Request, Switch, line_of

__all__ = ["Entries", "Entry", "Request", "Switch", "line_of"]
