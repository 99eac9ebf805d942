"""What became of one request: a plain record, filled in as it goes and told once at its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dmap.wire.hop import Queued
from dmap.wire.trace import Trace


@dataclass(slots=True)
class RequestRecord:
    """
    One request's facts, filled in as it goes and told once at its end.

    Times whose names end in `_at` are those of the loop's clock; those that end in `_s` are seconds.
    *device* is None where it passes without arbitration.  *service_s* is how long it held its model.
    *queue_s* has what it waited at other boxes in it.  *hop_s* is what the way to another box took until the
    first byte, and *place* what that says of its place there.
    *asked* is the name that the client gave its model, or its beginning.  *behind* is what was in its way
    when it began to wait, if it did.
    *waits* tells that it is in the queue right now.
    *retried* is 1 for a request that took its place in the queue again, because its server was gone; it
    *moved* so often from one place to another.
    *tokens_per_s* is what the server says of its speed.  *key* tells that *client* is the name of an API
    key, *received* that the request was let in.  *committed* is set when the head of the response is out; no
    HTTP error can be sent after that.  *lacks_route* tells that the server said that it has no such route.
    *cache* tells what became of an answer that was looked for where answers are kept: `hit`, `miss`, `away`.
    *changes* names what dmap filled in, forced and stripped.
    """

    id: str
    path: str
    client: str
    arrived_at: float
    method: str = ""
    key: bool = False
    received: bool = False
    asked: str = ""
    behind: str = ""
    model: str = ""
    backend: str = ""
    device: str | None = None
    priority: int = 0
    stream: bool = False
    queue_s: float = 0.0
    switch_s: float = 0.0
    service_s: float = 0.0
    waits: bool = False
    hop_s: float | None = None
    place: Queued | None = None
    retried: int = 0
    moved: int = 0
    first_byte_s: float | None = None
    bytes_out: int = 0
    chunks: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_per_s: float | None = None
    total_s: float | None = None
    status: int = 0
    outcome: str = ""
    reason: str = ""
    committed: bool = False
    lacks_route: bool = False
    cache: str = ""
    trace: Trace | None = None
    changes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def alias(self) -> str | None:
        """What the client called the model, if that is not the model's own name."""
        return self.asked if self.asked and self.asked != self.model else None
