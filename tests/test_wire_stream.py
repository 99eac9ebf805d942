"""Whole streams told from broken ones, however they are cut into chunks."""

import functools
import sys

import pytest

from dmap.wire.dialects import Dialect
from dmap.wire.stream import StreamWatch, error_of, usage_of

TEXT = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":null}]}\n\n'
FINISH = b'data: {"choices":[{"delta":{},"finish_reason": "stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
DONE = b"data: [DONE]\n\n"
COMPLETED = b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def fed(stream: bytes, size: int = 1 << 20) -> StreamWatch:
    """A watch that has seen *stream* in chunks of *size*."""
    watch = StreamWatch()
    for start in range(0, len(stream), size):
        watch.keep(stream[start : start + size])
    return watch


SIZES = pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])


@SIZES
@pytest.mark.parametrize(
    ("dialect", "stream"),
    [
        (Dialect.CHAT, TEXT + FINISH + USAGE + DONE),
        (Dialect.CHAT, DONE),
        (Dialect.CHAT, TEXT + b"data:[DONE]\n\n"),
        (Dialect.CHAT, TEXT + b"data: [DONE]"),
        (Dialect.CHAT, (TEXT + DONE).replace(b"\n", b"\r\n")),
        (Dialect.CHAT, b": ping\n\n" + TEXT + DONE + b"\n"),
        (Dialect.RESPONSES, COMPLETED),
        (Dialect.RESPONSES, COMPLETED + DONE),
        (Dialect.MESSAGES, STOP + DONE),
        (Dialect.RESPONSES, COMPLETED.replace(b"completed", b"failed")),
        (Dialect.RESPONSES, COMPLETED.replace(b"completed", b"incomplete")),
        (Dialect.RESPONSES, b'data: {"type":"response.completed","response":{}}\n\n'),
        (Dialect.MESSAGES, STOP),
        (Dialect.RESPONSES, b'data: {"sequence_number":9,"type":"response.completed"}\n\n'),
        (Dialect.MESSAGES, b'data: {"type": "message_stop"}\n\n'),
        (Dialect.PLAIN, b"anything"),
        (Dialect.PLAIN, b""),
    ],
)
def test_a_whole_stream(dialect, stream, size):
    """A stream that ends with its dialect's mark is whole, in whatever pieces it comes."""
    assert fed(stream, size).ended(dialect)


@SIZES
@pytest.mark.parametrize(
    ("dialect", "stream"),
    [
        (Dialect.CHAT, b""),
        (Dialect.CHAT, TEXT),
        (Dialect.CHAT, TEXT + FINISH + USAGE),
        (Dialect.CHAT, TEXT + DONE[:-4]),
        (Dialect.CHAT, TEXT + b'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}\n\n'),
        (Dialect.CHAT, TEXT + b'data: {"x":"\\n\\ndata: [DONE]"}\n\n'),
        (Dialect.CHAT, DONE + TEXT + TEXT),
        (Dialect.CHAT, STOP),
        (Dialect.RESPONSES, COMPLETED.replace(b"completed", b"in_progress")),
        (Dialect.RESPONSES, COMPLETED.replace(b"completed", b"completed_soon")),
        (Dialect.RESPONSES, b'data: {"delta":"response.completed"}\n\n'),
        (Dialect.RESPONSES, DONE),
        (Dialect.RESPONSES, TEXT + COMPLETED[:-1]),
        (Dialect.RESPONSES, TEXT + COMPLETED[:45]),
        (Dialect.MESSAGES, STOP + b'event: message_delta\ndata: {"type":"message_delta"}\n\n' * 2),
    ],
)
def test_a_broken_stream(dialect, stream, size):
    """A stream whose last record is not the mark is broken, whatever stands in a text."""
    assert not fed(stream, size).ended(dialect)


def test_a_long_record_in_tiny_pieces():
    """What a record costs grows with its length, not with the square of it: this would take minutes."""
    stream = COMPLETED.replace(b"{}", b'"' + b"x" * 1_000_000 + b'"')

    assert fed(stream, 1).ended(Dialect.RESPONSES)


@pytest.mark.parametrize("filler", [b"\n\n", b"\r\n\r\n", b":\n\n", b"data: []\n\n", b"data: error\n\n"])
def test_the_end_of_many_records(filler):
    """However many records come at once, the end mark and the tokens after them are found."""
    watch = fed(filler * 100_000 + USAGE + DONE)

    assert watch.ended(Dialect.CHAT)
    assert watch.usage()[:2] == (3, 4)


def test_an_error_among_many_that_are_none():
    """A bounded number of records is decoded for each read, and the next read is looked at again."""
    watch = StreamWatch()

    watch.keep(b'data: {"error":null}\n\n' * 10_000)
    watch.look()
    watch.keep(b'data: {"error":"boom"}\n\n')

    assert watch.error == "boom"


def test_a_long_record_is_not_kept_whole():
    """A record longer than what is kept loses its end, and the stream is judged all the same."""
    stream = b'data: "' + b"x" * 200_000 + b'"\n\n' + DONE

    assert fed(stream, 4096).ended(Dialect.CHAT)
    assert not fed(stream[:-10], 4096).ended(Dialect.CHAT)


@pytest.mark.parametrize(
    ("stream", "whole"), [(TEXT + FINISH, True), (TEXT + FINISH + USAGE, True), (TEXT, False), (b"", False)]
)
def test_a_finish_reason_may_do(stream, whole):
    """For servers that send no `[DONE]`, a `finish_reason` in the last records is an end."""
    watch = fed(stream, len(TEXT))

    assert watch.ended(Dialect.CHAT, by_finish=True) is whole
    assert not watch.ended(Dialect.CHAT)


@SIZES
@pytest.mark.parametrize(
    ("stream", "torn"), [(b"", False), (TEXT, False), (TEXT + b"data: {", True), (TEXT + b": p", True)]
)
def test_a_torn_record(stream, torn, size):
    """A stream that ends inside a record is known to."""
    assert fed(stream, size).torn is torn


@SIZES
@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (TEXT + b'data: {"error":{"message":"boom","code":500}}\n\n' + DONE, "boom"),
        (b'data: {"error": "boom"}\n\n' + TEXT, "boom"),
        (b'event: error\ndata: {"type":"error","message":"boom"}\n\n', "boom"),
        (b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n', "overloaded_error"),
        (b'data: {"type":"error","message":"boom"}\n\n', "boom"),
        (b'event:error\ndata: {"message":"boom"}\n\n', "an error without a message"),
        (b"event: error\ndata: oops\n\n", "an error without a message"),
        (b'data: {"error":{"message":"a"}}\n\ndata: {"error":{"message":"b"}}\n\n', "a"),
        (TEXT + b'data: {"error":null}\n\n' + DONE, None),
        (b'data: {"choices":[{"delta":{"content":"\\"error\\": event: error"}}]}\n\n' + DONE, None),
        (b'data: {"choices":[{"error":{"message":"inside"}}]}\n\n' + DONE, None),
    ],
)
def test_an_error_inside(stream, error, size):
    """The first error inside a stream is kept, in any server's form, even if an end mark follows."""
    assert fed(stream, size).error == error


@SIZES
@pytest.mark.parametrize(
    ("stream", "tokens"),
    [
        (TEXT + FINISH + USAGE + DONE, (3, 4)),
        (TEXT + USAGE, (3, 4)),
        (b'data: {"usage":null}\n\n' + DONE, (None, None)),
        (b'data: {"timings":{"cache_n":2,"prompt_n":1,"predicted_n":5}}\n\n' + DONE, (3, 5)),
        (b'data: {"response":{"usage":{"input_tokens":1,"output_tokens":2}}}\n\n', (1, 2)),
        (b'data: {"type":"message_delta","usage":{"output_tokens":5}}\n\n' + STOP, (None, 5)),
        (
            b'data: {"type":"chat.end","result":{"stats":{"input_tokens":6,"total_output_tokens":7}}}\n\n',
            (6, 7),
        ),
        (b'data: {"usage":{"prompt_tokens":1,"completion_tokens":2},"stats":{}}\n\n' + DONE, (1, 2)),
        (
            b'data: {"type":"message_delta","usage":{"input_tokens":1,"cache_read_input_tokens":2,'
            b'"cache_creation_input_tokens":4,"output_tokens":3}}\n\n' + STOP,
            (7, 3),
        ),
        (b"", (None, None)),
    ],
)
def test_tokens_are_counted(stream, tokens, size):
    """The tokens that a stream tells in its last records are read, by any server's words."""
    assert fed(stream, size).usage()[:2] == tokens


@pytest.mark.parametrize(
    ("payload", "rate"),
    [
        ({"timings": {"predicted_n": 5, "predicted_per_second": 51.5}}, 51.5),
        ({"usage": {"completion_tokens": 5}, "timings": {"predicted_per_second": 8}}, 8.0),
        ({"usage": {"completion_tokens": 5}, "stats": {"tokens_per_second": 51.4}}, 51.4),
        ({"type": "chat.end", "result": {"stats": {"tokens_per_second": 29.75}}}, 29.75),
        ({"timings": {"predicted_per_second": 0}}, None),
        ({"timings": {"predicted_per_second": "8"}}, None),
        ({"stats": {"tokens_per_second": float("inf")}}, None),
        ({"usage": {"completion_tokens": 5}}, None),
    ],
)
def test_speed_is_told(payload, rate):
    """How fast a server wrote is taken from its own words; what is no speed is none."""
    assert usage_of(payload).tokens_per_s == rate


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"error": "text"}, "text"),
        ({"error": {"message": "m"}}, "m"),
        ({"error": {"type": "t"}}, "t"),
        ({"error": {"code": 5}}, "no message"),
        ({"type": "error", "message": "m"}, "m"),
        ({"error": None, "output": []}, None),
        ({"error": {}}, None),
        ({"error": ""}, None),
        ([], None),
        (None, None),
        ("error", None),
    ],
)
def test_errors_are_recognised(payload, error):
    """An error body is one by its `error` that is not null, or by its type."""
    assert error_of(payload) == error


@pytest.mark.parametrize(
    "said", ["x" * 100_000, ["x"] * 100_000, {"message": {"x": "x" * 100_000}}, {"type": ["x" * 100_000]}]
)
def test_a_long_error_is_cut(said):
    """However much a server says of its error, and in whatever shape, a bounded text remains."""
    assert len(error_of({"error": said})) < 2100


@pytest.mark.parametrize("wrap", [lambda said: said, lambda said: {"message": said}])
def test_an_error_nested_deep(wrap):
    """An error nested as deep as no encoder follows is told of all the same."""
    said = functools.reduce(lambda inner, _: [inner], range(100_000), "x")

    assert "nested" in error_of({"error": wrap(said)})


@pytest.mark.parametrize(
    "payload", [None, [], {"usage": 5}, {"usage": {"prompt_tokens": "3"}}, {"message": "hi"}, {"timings": []}]
)
def test_no_usage(payload):
    """What tells no tokens, or no numbers, is nothing."""
    assert usage_of(payload) == (None, None, None)


def test_what_was_looked_at_is_let_go():
    """Chunks are kept until they are looked at, and no longer: else each look would be at all of them."""
    watch, first = StreamWatch(), TEXT * 2
    alone = sys.getrefcount(first)

    watch.keep(first)
    watch.keep(TEXT)
    kept = sys.getrefcount(first)

    assert watch.error is None
    assert (kept, sys.getrefcount(first)) == (alone + 1, alone)
