"""
What a front and a node tell each other beside a request and its answer.  Pure.

A front is a dmap that has others answer, its nodes; a node is a dmap beside its devices.  A front says in
headers for whom it asks.  While the request waits, its node sends `102` now and then, and `103` once it has
its model, before any server is asked: until then the front may send it elsewhere, and never after.  The
status carries the meaning, so a proxy in between that drops the headers of such an answer harms nothing.
Nobody but a front is sent one: some clients take it for the answer (RFC 9110 section 15.2, RFC 8297).
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from dmap.errors import BadRequest

MARK = "Dmap-Hop"
"""In each request of a front: it has made its hop, and a node that would send it on refuses it."""
WAITS, GRANTED = 102, 103
GO_ON = b"HTTP/1.1 102 Processing\r\n\r\n"
"""The answer in between that tells nothing."""
PLACE = "Dmap-Place"
KEEPS = "Dmap-Keeps"
"""Of a front that would keep the answer for the next one who asks the same."""
MADE_WITH = "Dmap-Made-With"
"""
With the 103, for such a front: what stands for all that the answer is made with beside the request.

The view has the same for each model (`Listed.made_with`).  An answer for which both do not agree is not kept.
"""
PLACE_S = 2.5
"""A node tells this often that a request waits, so that a node that stands still is noticed soon."""
SILENT_S = 10.0
"""A request of which a node has told nothing for so long, and that is not granted, may go elsewhere."""
MOST_PLACE = 2048
"""In characters, of what a node tells of a place: two names of models, and a few words."""
LONGEST_WAIT_S = 86400.0
"""Nobody has waited for longer, whatever a front says."""
MOST_SIGNS = int(LONGEST_WAIT_S / PLACE_S)
"""More answers in between than in the longest wait are a flood."""

_NAME = re.compile(r"[A-Za-z0-9._:/%-]{1,128}")
_PRIORITIES = range(-10, 11)


class Hop(NamedTuple):
    """
    For whom a front asks: a *client* by its name there, with its *priority* and the fields that it may use.

    The request has *waited_s* already, there or at other nodes.  The front *keeps* the answer, if it may.
    """

    client: str
    priority: int = 0
    permit: frozenset[str] = frozenset()
    waited_s: float = 0.0
    keeps: bool = False

    def headers(self) -> list[tuple[str, str]]:
        """Return what tells a node of it."""
        told = [(MARK, "1"), ("Dmap-Client", self.client), ("Dmap-Waited", f"{self.waited_s:.3f}")]
        if self.priority:
            told.append(("Dmap-Priority", str(self.priority)))
        if self.permit:
            told.append(("Dmap-Permit", ",".join(sorted(self.permit))))
        if self.keeps:
            told.append((KEEPS, "1"))
        return told


def hop_of(headers: Mapping[str, str]) -> Hop | None:
    """
    Read what a front says in *headers*; None if it asks for itself.

    Only a front's own headers may be given here.  Raises `BadRequest` for what no front says.
    """
    if MARK not in headers:
        return None
    permit = frozenset(filter(None, headers.get("Dmap-Permit", "").split(",")))
    priority, waited_s = headers.get("Dmap-Priority", "0"), headers.get("Dmap-Waited", "0")
    if not _NAME.fullmatch(client := headers.get("Dmap-Client", "")):
        raise BadRequest("Dmap-Client: not the name of a client or its address")
    return Hop(client, _priority(priority), permit, _waited_s(waited_s), KEEPS in headers)


def _priority(text: str) -> int:
    try:
        return _PRIORITIES[_PRIORITIES.index(int(text))]
    except ValueError:
        raise BadRequest("Dmap-Priority: not a number from -10 to 10") from None


def _waited_s(text: str) -> float:
    try:
        waited_s = float(text)
    except ValueError:
        waited_s = math.nan
    if not 0 <= waited_s < math.inf:
        raise BadRequest("Dmap-Waited: not a number of seconds")
    return min(waited_s, LONGEST_WAIT_S)


class Queued(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    A place in a queue: about *estimate_s* are left, and *p80_s* in one case of five at most.

    *behind* is what was in the way when the wait began.  With *drained* the device serves nobody for now.
    """

    position: int
    estimate_s: float
    p80_s: float
    behind: str = ""
    drained: bool = False

    @property
    def told(self) -> dict[str, Any]:
        """What `request.queued` tells of it."""
        place = {"position": self.position, "estimate_s": self.estimate_s, "p80_s": self.p80_s}
        return {**place, "behind": self.behind}

    @property
    def words(self) -> str:
        """The place in words, for who waits."""
        left = f"about {self.estimate_s:.0f} s to go, p80 {self.p80_s:.0f} s"
        place = f"position {self.position} in the queue"
        return f"{place}, {'served when its owner resumes it' if self.drained else left}"


_read_place = msgspec.json.Decoder(Queued).decode


def waits(place: Queued) -> bytes:
    """Return the answer in between that tells of a request's *place*."""
    told = json.dumps(msgspec.to_builtins(place))
    return f"HTTP/1.1 {WAITS} Processing\r\n{PLACE}: {told}\r\n\r\n".encode()


def granted(device: str, made_with: str = "") -> bytes:
    """Return the answer in between that tells that the request has its model, on *device*."""
    more = f"{MADE_WITH}: {made_with}\r\n" if made_with else ""
    return f"HTTP/1.1 {GRANTED} Early Hints\r\nDmap-Granted: {device}\r\n{more}\r\n".encode()


def place_in(headers: Mapping[str, str]) -> Queued | None:
    """Return the place in the *headers* of such an answer; None if a middlebox has lost it, or it is none."""
    told = headers.get(PLACE, "")
    try:
        return _read_place(told) if len(told) <= MOST_PLACE else None
    except (msgspec.MsgspecError, RecursionError):
        return None
