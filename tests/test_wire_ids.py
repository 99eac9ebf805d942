"""Ids that nothing else has."""

import re

from dmap.wire.ids import AT_ONCE, new_word


def test_none_comes_twice() -> None:
    """Words are 16 hex digits each, and all are different, also those of another draw."""
    words = [new_word() for _ in range(5 * AT_ONCE)]

    assert len(set(words)) == len(words)
    assert re.fullmatch("[0-9a-f]*", "".join(words)) and {len(word) for word in words} == {16}
