"""
Ids that nothing else has.

The kernel is asked for the bytes of many at once: to ask it for each took a request 2 % of its time.
"""

import secrets
from collections.abc import Iterator

AT_ONCE = 256
"""So many words are drawn together."""


def _words() -> Iterator[str]:
    while True:
        drawn = secrets.token_hex(8 * AT_ONCE)
        for at in range(0, len(drawn), 16):
            yield drawn[at : at + 16]


new_word = _words().__next__
"""Return 16 hex digits, 64 bits that the kernel has drawn."""
