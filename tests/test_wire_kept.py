"""What is kept of an answer, and that nothing else is ever taken for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from dmap.wire.kept import HEAD_BYTES, Kept, directives, kind_of, name_of, read, tells_failure, written

KEY = bytes(range(32))
KEPT = Kept("application/json", b'{"a": 1}', 600_000)
DATA = written(KEY, KEPT)


@given(st.binary(max_size=500), st.integers(1, 10**12 - 1))
def test_there_and_back(body, ttl_ms):
    """What was kept is read as it was, and takes little beside its bytes."""
    kept = Kept("text/event-stream; charset=utf-8", body, ttl_ms)

    data = written(KEY, kept)

    assert read(KEY, data) == kept
    assert len(data) <= len(body) + HEAD_BYTES


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_one_byte_is_another(at, by):
    """With any one byte changed it is nothing."""
    assert read(KEY, DATA[:at] + bytes((DATA[at] ^ by,)) + DATA[at + 1 :]) is None


@given(st.integers(0, len(DATA) - 1))
def test_what_was_cut(length):
    """Cut anywhere, or with more behind it, it is nothing."""
    assert read(KEY, DATA[:length]) is None
    assert read(KEY, DATA + DATA[:length] + b"x") is None


@given(st.binary(max_size=200))
def test_rubbish(data):
    """Anything else is nothing."""
    assert read(KEY, data) is None


def test_an_answer_to_another_request():
    """What was kept for another request is nothing, also if that differs in what the name does not show."""
    other = KEY[:-1] + b"\0"

    assert name_of(other) == name_of(KEY)
    assert read(other, DATA) is None


@pytest.mark.parametrize(
    "kind", ["text/html", "application/json\r\nSet-Cookie: a=b", "application/json; a=\r\n", "", "x" * 300]
)
def test_a_kind_that_is_none(kind):
    """A head that would break the framing of an answer is never read, whoever has written it."""
    assert read(KEY, written(KEY, Kept(kind, b"", 1))) is None
    assert kind_of(200, CIMultiDict({"Content-Type": kind})) is None


@pytest.mark.parametrize(
    ("status", "more"),
    [
        (201, {}),
        (500, {}),
        (200, {"Content-Encoding": "gzip"}),
        (200, {"Cache-Control": "private, No-Store"}),
    ],
)
def test_what_is_not_kept(status, more):
    """An error, what is encoded, and what its server does not want kept, is not."""
    headers = CIMultiDict({"Content-Type": "application/json", **more})

    assert kind_of(status, headers) is None


def test_what_is_kept():
    """A plain answer or a stream is, with its own content type."""
    assert kind_of(200, CIMultiDict({"Content-Type": "application/json; charset=utf-8"}))
    assert kind_of(200, CIMultiDict({"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}))


def test_directives():
    """All lines of `Cache-Control` count, in any letter case, without their arguments."""
    headers = CIMultiDict([("Cache-Control", "max-age=0, NO-CACHE"), ("cache-control", ' no-store="a"')])

    assert directives(headers) == {"max-age", "no-cache", "no-store"}


@pytest.mark.parametrize(
    ("body", "is_failure"),
    [
        (b'{"id": "r", "status": "failed", "error": {"message": "x"}}', True),
        (b'data: {"type":"response.failed","response":{"error" : {"code":"x"}}}\n\n', True),
        (b'{"choices": [{"finish_reason":"abort"}]}', True),
        (b'data: {"choices": [{"finish_reason": "error"}]}\n\n', True),
        (b'{"id": "r", "status": "completed", "error": null}', False),
        (b'{"choices": [{"finish_reason": "stop", "text": "{\\"error\\": {}}"}]}', False),
        (b'{"logprobs": [{"token": "error", "logprob": 0}]}', False),
    ],
)
def test_failures(body, is_failure):
    """What an answer says of itself counts, what a model writes in it does not."""
    assert tells_failure(body) is is_failure
