"""What would take long to decode is refused before, and nothing else is."""

import pytest

from dmap.errors import BadRequest
from dmap.wire.limits import MAX_BLANKS, MAX_ESCAPES, MAX_MEMBERS, MAX_VALUES, SLICE_BYTES, check_limits


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"[" * (MAX_VALUES + 1), "values"),
        (b"[" + b"[]," * MAX_VALUES + b"[]]", "values"),
        (b"[" + b"1," * MAX_VALUES + b"1]", "values"),
        (b'["a' + b'",  "a' * MAX_VALUES + b'"]', "values"),
        (b"{" + b'"a":1,' * MAX_MEMBERS + b'"a":1}', "members"),
        (b'["' + b"\\n" * (MAX_ESCAPES + 1) + b'"]', "backslashes"),
        (b"[1" + b" " * (MAX_BLANKS + 1) + b"]", "bytes of white space"),
        (b"[1" + b"\n\t\r " * (MAX_BLANKS // 4 + 1) + b"]", "bytes of white space"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_takes_long_is_refused(body, what):
    """A body with too many values, members, escapes, or bytes that are no text is refused with the bound."""
    with pytest.raises(BadRequest, match=f"over [0-9,]+ {what}"):
        check_limits(body)


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize(
    "text",
    [
        b"," * MAX_VALUES + b"[",
        b"{[:" * MAX_VALUES,
        b" " * (MAX_BLANKS + 1),
        b'\\",' * (MAX_VALUES + 1),
        b'\\\\\\",' * (MAX_VALUES + 1),
        "é,".encode() * (MAX_VALUES + 1),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_stands_in_strings_does_not_count(text, shift):
    """Marks and white space in texts are no values, wherever the slices are cut."""
    check_limits(b" " * shift + b'["' + text + b'","\\\\",1]')


@pytest.mark.parametrize("shift", range(4))
def test_a_quote_behind_an_escaped_backslash_ends_a_string(shift):
    """What stands behind a string that ends in a backslash counts, wherever the slices are cut."""
    text = b" " * shift + b'["' + b'\\\\","' * SLICE_BYTES + b'"' + b",1" * MAX_VALUES + b"]"

    with pytest.raises(BadRequest, match="values"):
        check_limits(text)


@pytest.mark.parametrize("cut", range(1, 4))
def test_utf_8_is_read_across_slices(cut):
    """A character that a slice cuts is one; what is none is refused, at the end of the body too."""
    check_limits(b"x" * (SLICE_BYTES - cut) + "🙂".encode())

    with pytest.raises(UnicodeDecodeError):
        check_limits(b"x" * SLICE_BYTES + "🙂".encode()[:cut])
