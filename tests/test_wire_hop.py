"""What a front says of a request, and what it reads of a node's answers in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as some
from multidict import CIMultiDict

from dmap.errors import BadRequest
from dmap.wire.hop import LONGEST_WAIT_S, Hop, Queued, granted, hop_of, place_in, waits

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


PLACES = some.builds(
    Queued,
    some.integers(1, 10**6),
    some.floats(0, 1e6),
    some.floats(0, 1e6),
    some.sampled_from(("", "studio/größer", "switch to a\r\nb")),
    some.booleans(),
)


@given(PLACES)
def test_the_place_that_a_node_tells_is_the_one_that_its_front_reads(place):
    """A place arrives whole, in a head of HTTP and nothing else, whatever models are called."""
    first, header, *rest = waits(place).split(b"\r\n")

    assert (first, rest) == (b"HTTP/1.1 102 Processing", [b"", b""])
    assert place_in(CIMultiDict([header.decode("ascii").split(": ", 1)])) == place


def test_the_grant():
    """A grant is a head of HTTP and nothing else."""
    assert granted("gpu1") == b"HTTP/1.1 103 Early Hints\r\nDmap-Granted: gpu1\r\n\r\n"


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"Dmap-Place": "position 2 in the queue"},
        {"Dmap-Place": '{"position": "first"}'},
        {"Dmap-Place": '{"position": 1, "estimate_s": NaN, "p80_s": 1}'},
        {"Dmap-Place": '{"position": 1}' + " " * 2048},
    ],
)
def test_a_place_that_was_lost_on_the_way(said):
    """What a middlebox dropped, or no node writes, is no place."""
    assert place_in(CIMultiDict(said)) is None


def test_a_place_of_another_release():
    """What a newer node tells beside a place is passed over."""
    told = '{"position": 2, "estimate_s": 7.5, "p80_s": 9, "behind": "gpu/a", "moon": {"phase": 1}}'

    assert place_in(CIMultiDict({"Dmap-Place": told})) == Queued(2, 7.5, 9, "gpu/a")


def test_words_of_a_place():
    """A client is told its place and the time that is left, or that nobody knows that."""
    assert Queued(1, 3.4, 9.6).words == "position 1 in the queue, about 3 s to go, p80 10 s"
    assert Queued(2, 3, 9, drained=True).words == "position 2 in the queue, served when its owner resumes it"


def test_a_front_of_another_release():
    """Whatever a newer front says beside what is known, its requests are answered."""
    headers = CIMultiDict({**dict(Hop("me").headers()), "Dmap-Hop": "2", "Dmap-Moon": "full"})

    assert hop_of(headers) == Hop("me")
