"""
What one client was answered, kept beside it on the way, for as long as that is little.

It never changes or delays an answer: what is too much is dropped, and the answer goes on.
"""

from multidict import MultiMapping

from dmap.wire.kept import kind_of

ALL_BYTES = 64 * 2**20
"""Of all copies together that are being made."""


class Room:
    """The memory of all copies: *bytes* are taken."""

    def __init__(self) -> None:
        self.bytes = 0


class Copy:
    """
    A copy of one answer: its *kind*, None until it has begun, and its bytes, *most* of them at the most.

    *made_with* stands for the settings that the answer has to be made with.  A node has *said* what it was
    made with there.  `drop` it in the end, which gives its memory back to *room*.
    """

    def __init__(self, room: Room, most: int, made_with: str) -> None:
        self.made_with = made_with
        self.said = ""
        self.kind: str | None = None
        self._room, self._most = room, most
        self._body: bytearray | None = bytearray()

    def begin(self, status: int, headers: MultiMapping[str]) -> None:
        """Take the head of the answer; of some the copy ends here."""
        self.kind = kind_of(status, headers)
        if self.kind is None:
            self.drop()

    def add(self, data: bytes) -> None:
        """Take one piece of the body."""
        if self._body is None:
            return
        size = len(data)
        if len(self._body) + size > self._most or self._room.bytes + size > ALL_BYTES:
            return self.drop()
        self._body += data
        self._room.bytes += size

    @property
    def body(self) -> bytes | None:
        """All bytes so far; None if it was dropped."""
        return bytes(self._body) if self._body is not None else None

    def drop(self) -> None:
        """Forget it.  Idempotent."""
        self._room.bytes -= len(self._body or b"")
        self._body = None
