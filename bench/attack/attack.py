"""One attempt to get something past dmap: the bytes of a request, with holes where the models go."""

from dataclasses import dataclass, replace

MAY, MAY_NOT, HELD = b"<may>", b"<may-not>", b"<held>"
"""Stand for the model that the key may use, the one that it may not, and one with `force` and `strip`."""

_PADDING = b'{"padding":"%b",' % (b"x" * 70_000)
CHAT, SPEECH = "/v1/chat/completions", "/v1/audio/transcriptions"


@dataclass(frozen=True)
class Attack:
    """
    A POST of *body* to *path* with these *headers*, lines that may replace our own Content-Type.

    *innocent* is what no refusal may meet: what real clients send.
    """

    group: str
    body: bytes
    path: str = CHAT
    headers: tuple[str, ...] = ()
    innocent: bool = False

    def dressed(self, number: int) -> "Attack":
        """
        Return it in other clothes, by turns.

        These are blanks behind colons and commas, and a member of 70 KiB, for dmap reads such bodies in other
        ways than short and dense ones.
        """
        if number % 4 == 0 and self.body.startswith(b"{"):
            return replace(self, body=self.body.replace(b'":', b'" : ').replace(b',"', b',  "'))
        if number % 16 == 1 and self.body.startswith(b'{"'):
            return replace(self, body=_PADDING + self.body[1:])
        return self

    def aimed(self, site: str) -> "Attack":
        """Return it for the backend with the suffix *site*."""
        body = self.body.replace(MAY, f"small-{site}".encode()).replace(MAY_NOT, f"big-{site}".encode())
        return replace(self, body=body.replace(HELD, f"held-{site}".encode()))
