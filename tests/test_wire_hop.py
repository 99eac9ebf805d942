"""What a front says of a request, and what it reads of a node's answers in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as some
from multidict import CIMultiDict

from dmap.errors import BadRequest
from dmap.wire.hop import LONGEST_WAIT_S, Hop, granted, hop_of, place_in, waits

HOPS = some.builds(
    Hop,
    some.sampled_from(("webui", "a.b-c_1", "10.0.0.7", "2001:db8::/64")),
    some.integers(-10, 10),
    some.frozensets(some.sampled_from(("integrations", "context_length", "keep_alive"))),
    some.integers(0, 10**6).map(lambda ms: ms / 1000),
)


@given(HOPS)
def test_what_a_front_says_is_what_its_node_reads(hop):
    """All that a front says of a request arrives, whatever the letter case of its headers becomes."""
    headers = CIMultiDict((name.lower(), value) for name, value in hop.headers())

    assert hop_of(headers) == hop


def test_who_asks_for_itself_makes_no_hop():
    """Without the mark the other headers mean nothing."""
    assert hop_of(CIMultiDict({"Dmap-Client": "webui", "Dmap-Priority": "10"})) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Dmap-Client", ""),
        ("Dmap-Client", "two words"),
        ("Dmap-Client", "x" * 129),
        ("Dmap-Priority", "11"),
        ("Dmap-Priority", "high"),
        ("Dmap-Waited", "-1"),
        ("Dmap-Waited", "nan"),
        ("Dmap-Waited", "inf"),
        ("Dmap-Waited", "soon"),
    ],
)
def test_what_no_front_says_is_refused(name, value):
    """A value that no front writes is a bad request that names its header."""
    headers = CIMultiDict({"Dmap-Hop": "1", "Dmap-Client": "webui", name: value})

    with pytest.raises(BadRequest, match=f"^{name}: "):
        hop_of(headers)


def test_no_wait_is_longer_than_a_day():
    """A front whose clock went wrong cannot make its requests the oldest of all for ever."""
    hop = hop_of(CIMultiDict(Hop("me", waited_s=1e9).headers()))

    assert hop is not None
    assert hop.waited_s == LONGEST_WAIT_S


def test_answers_in_between():
    """A node's answers in between are heads of HTTP and nothing else."""
    assert waits("position 1") == b"HTTP/1.1 102 Processing\r\nDmap-Place: position 1\r\n\r\n"
    assert granted("gpu1") == b"HTTP/1.1 103 Early Hints\r\nDmap-Granted: gpu1\r\n\r\n"


@pytest.mark.parametrize("headers", [{}, {"Dmap-Place": "a\nb"}, {"Dmap-Place": "x" * 129}])
def test_a_place_that_was_lost_on_the_way(headers):
    """Words that a middlebox dropped, or that no node writes, are replaced by others."""
    assert place_in(CIMultiDict(headers)) == "waiting for the model"
    assert place_in(CIMultiDict({"Dmap-Place": "position 2 in the queue"})) == "position 2 in the queue"
