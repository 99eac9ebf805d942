"""
Which trace a request belongs to, as headers say it: W3C Trace Context, level 1 and the answer of level 2.

A trace id is 32 hex digits, a span id 16.  The flag 01 tells that the trace is recorded.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dmap.wire.ids import new_word

STEPS = 64
"""So many steps of one request are kept; it makes seven, and a few more where it was sent twice."""

SENT = "sent"
"""The one step that no event tells."""

_HEX = "[0-9a-f]"
_PARENT = re.compile(
    rf"(?!ff)({_HEX}{{2}})-(?!0{{32}})({_HEX}{{32}})-(?!0{{16}})({_HEX}{{16}})-({_HEX}{{2}})(-.*)?"
)


class Step(NamedTuple):
    """What happened to a request, as the event of this type told it, *at* seconds since 1970."""

    at: float
    type: str
    fields: Mapping[str, Any]


@dataclass(slots=True)
class Trace:
    """
    The trace *id* of one request, and its own *span* in it, below *parent* if a client named one.

    If it is *sampled*, its *steps* are kept, and each time that it is sent has a span of its own in *sent*.
    """

    id: str
    span: str
    parent: str | None
    sampled: bool
    steps: list[Step] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    def note(self, at: float, type: str, fields: Mapping[str, Any]) -> None:
        """Keep a step, if anybody will look at it."""
        if self.sampled and len(self.steps) < STEPS:
            self.steps.append(Step(at, type, fields))

    def answer(self) -> str:
        """Return the value of `traceresponse` for the client."""
        return f"00-{self.id}-{self.span}-{self.sampled:02x}"

    def send(self, at: float) -> str:
        """Return the value of `traceparent` for a server that gets the request now, *at* that time."""
        if not self.sampled:  # who does not record is no parent
            return f"00-{self.id}-{self.parent or self.span}-00"
        self.note(at, SENT, {})
        self.sent.append(new_word())
        return f"00-{self.id}-{self.sent[-1]}-01"


def trace_of(given: Sequence[str], draw: Callable[[], bool]) -> Trace:
    """
    Return the trace of a request with these values of `traceparent`, of which there should be one at most.

    A client that records its trace has it recorded here, one that does not has not.  Without a client's word
    *draw* decides.
    """
    match = _PARENT.fullmatch(given[0]) if len(given) == 1 else None
    if match is None or (match[1] == "00" and match[5]):
        return Trace(new_word() + new_word(), new_word(), None, draw())
    return Trace(match[2], new_word(), match[3], bool(int(match[4], 16) & 1))
