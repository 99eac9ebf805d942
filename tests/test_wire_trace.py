"""Which trace a request belongs to, as W3C Trace Context has it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmap.wire.trace import STEPS, trace_of

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
NEVER, ALWAYS = (lambda: False), (lambda: True)


@pytest.mark.parametrize(
    ("given", "sampled"),
    [
        (f"00-{ID}-{SPAN}-01", True),
        (f"00-{ID}-{SPAN}-00", False),
        (f"00-{ID}-{SPAN}-03", True),
        (f"cc-{ID}-{SPAN}-01-what-will-be", True),
    ],
)
def test_a_clients_trace(given, sampled):
    """A client's trace goes on here, below its span; whether it is recorded is the client's word."""
    trace = trace_of([given], NEVER if sampled else ALWAYS)

    assert (trace.id, trace.parent, trace.sampled) == (ID, SPAN, sampled)
    assert re.fullmatch(f"00-{ID}-{trace.span}-0{int(sampled)}", trace.answer())
    assert trace.span != SPAN


BROKEN = [
    "",
    "00",
    f"00-{ID}-{SPAN}",
    f"00-{ID}-{SPAN}-01-more",
    f"00-{ID}-{SPAN}-01 ",
    f"00-{ID.upper()}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{ID}-{'0' * 16}-01",
    f"ff-{ID}-{SPAN}-01",
    f"00-{ID}-{SPAN}-zz",
]


@pytest.mark.parametrize("given", [[], *([each] for each in BROKEN), [f"00-{ID}-{SPAN}-01"] * 2])
@pytest.mark.parametrize("sampled", [True, False])
def test_a_new_trace(given, sampled):
    """Without a header that is right, and only one, the request begins a trace, drawn by lot."""
    trace = trace_of(given, lambda: sampled)

    assert (trace.parent, trace.sampled) == (None, sampled)
    assert trace.id != ID and re.fullmatch("[0-9a-f]{32}", trace.id)


@given(st.text(alphabet="0123456789abcdef-", max_size=80) | st.text(max_size=60))
def test_whatever_is_given(text):
    """No header makes an id of another form."""
    trace = trace_of([text], NEVER)

    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", trace.answer())


def test_the_servers_parent_is_the_span_of_its_call():
    """Each time that a recorded request is sent has a span of its own, which is the server's parent."""
    trace = trace_of([f"00-{ID}-{SPAN}-01"], NEVER)

    first, second = trace.send(1), trace.send(2)

    assert [first, second] == [f"00-{ID}-{span}-01" for span in trace.sent]
    assert len({trace.span, SPAN, *trace.sent}) == 4


def test_who_does_not_record_is_no_parent():
    """Of a trace that is not recorded here the server gets the client's span."""
    assert trace_of([f"00-{ID}-{SPAN}-00"], ALWAYS).send(1) == f"00-{ID}-{SPAN}-00"


def test_steps_are_bounded():
    """Only a recorded trace keeps steps, and a bounded number of them."""
    recorded, other = trace_of([], ALWAYS), trace_of([], NEVER)

    kept = [(recorded.note(at, "request.retried", {}), other.note(at, "x", {})) for at in range(2 * STEPS)]

    assert (len(kept), len(recorded.steps), other.steps) == (2 * STEPS, STEPS, [])
