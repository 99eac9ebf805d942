"""Where a request goes: the shortest wait, among equals always the same place, and never all in one."""

import math
from collections import Counter
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from dmap.placement import Place, Standing, first
from dmap.placement.ranking import AFFINITY_S, SHARE, TICK_S

NAMES = st.text(max_size=8)
WAITS = st.floats(0, 1e6) | st.sampled_from([0.0, 0.2, 0.6, 2.0, 2.3, 8.0, math.inf])
ANY = WAITS | st.none()


@st.composite
def a_place(draw, name="box", waits=ANY):
    """A place that may say anything."""
    return Place(
        name,
        draw(waits),
        resident=draw(st.booleans()),
        sent=draw(st.integers(0, 20)),
        answer_s=draw(st.floats(0, 60)),
        parallel=draw(st.none() | st.integers(1, 8)),
        in_flight=draw(st.integers(0, 20)),
        standing=draw(st.sampled_from(Standing)),
    )


@st.composite
def some_places(draw, least=1, waits=ANY):
    """Places with names of their own."""
    names = draw(st.lists(NAMES, min_size=least, max_size=6, unique=True))
    return [draw(a_place(name, waits)) for name in names]


def chosen(places, model="qwen", affinity="ann"):
    """The name of the place that is tried first."""
    return first(model, affinity, places).name


# What holds of any places


@given(NAMES, NAMES, some_places(), st.randoms())
def test_the_order_of_the_places_given_is_of_no_concern(model, affinity, places, chance):
    """Whoever knows the same places chooses the same one, in whatever order he knows them."""
    mixed = chance.sample(places, len(places))

    assert first(model, affinity, mixed) is first(model, affinity, places)


@given(NAMES, NAMES, some_places())
def test_what_stands_worse_comes_later(model, affinity, places):
    """A place whose word is old comes after all that are sound, one that is full or drained after both."""
    assert first(model, affinity, places).standing == min(place.standing for place in places)


@given(some_places(waits=st.floats(0, 1e6)), st.floats(AFFINITY_S + TICK_S, 1e6))
def test_a_strictly_worse_place_is_never_first(places, more_s):
    """Who would wait longer somewhere, by more than the model and the hash are worth, does not go there."""
    best = first("qwen", "ann", places)
    worse = replace(best, name=best.name + "'", wait_s=best.wait_s + more_s)

    assert chosen([worse, *places]) == best.name


@given(some_places(waits=st.floats(0, 1e6)))
def test_nowhere_is_the_wait_much_shorter_than_at_the_first(places):
    """What the hash and the model's being there may cost is bounded."""
    best = first("qwen", "ann", places)
    rivals = [place.score_s for place in places if place.standing is best.standing]

    assert best.score_s <= min(rivals) + AFFINITY_S + TICK_S


@given(some_places(least=2, waits=st.floats(0, 1e6)), st.data())
def test_a_place_that_goes_takes_only_its_own_requests_along(places, data):
    """The first stays the first when another place goes, unless its wait was the shortest."""
    best = first("qwen", "ann", places)
    shortest = min(place.score_s for place in places)
    losers = [place for place in places if place is not best and place.score_s > shortest]
    assume(losers)
    gone = data.draw(st.sampled_from(losers))

    assert first("qwen", "ann", [place for place in places if place is not gone]) is best


@given(some_places(waits=st.none()), NAMES, NAMES)
def test_where_nobody_knows_a_wait_none_has_much_more_than_its_share(places, model, affinity):
    """Bounded loads: the first has no more than its share and a quarter, unless it stands better."""
    equal = [replace(place, standing=Standing.SOUND) for place in places]
    mean = (sum(place.in_flight for place in equal) + 1) / len(equal)

    assert first(model, affinity, equal).in_flight < math.ceil(SHARE * mean)


# Case by case


def test_the_shortest_wait_comes_first():
    """A place with the model, but a queue, comes after one that has to load it."""
    busy, cold = Place("busy", 20, resident=True), Place("cold", 8)

    assert first("qwen", "ann", [busy, cold]) is cold


def test_among_equals_the_one_that_has_the_model():
    """A difference below half a second is none."""
    places = [Place(f"cold{number}", 8.1) for number in range(20)]

    assert chosen([*places, Place("warm", 7.9, resident=True)]) == "warm"


def test_what_we_sent_counts_before_the_place_says_so():
    """Four at a time: the fifth since its last word waits for an answer, so another place comes first."""
    four = Place("a", 0, resident=True, sent=4, parallel=4, answer_s=5)
    other = Place("b", 2)

    assert chosen([replace(four, sent=3), other]) == "a"
    assert chosen([four, other]) == "b"


def test_any_number_at_once_is_no_wait():
    """Where a model answers any number at once, what we sent keeps nobody waiting."""
    assert Place("a", 0, sent=1000, answer_s=5).score_s == 0


def test_requests_of_one_conversation_stay_together():
    """Its prompt is in the memory of one engine; elsewhere it would have to be read again."""
    places = [Place(name, 0.0, resident=True) for name in "abcdefgh"]
    home = chosen(places)
    there = next(place for place in places if place.name == home)
    others = [place for place in places if place is not there]

    assert chosen([replace(there, wait_s=AFFINITY_S), *others]) == home
    assert chosen([replace(there, wait_s=AFFINITY_S + 0.1), *others]) != home


def test_a_model_that_is_to_be_loaded_has_no_affinity():
    """Where the model is not, no prompt is either: the model alone decides, among equal waits."""
    places = [Place(f"box{number}", 8) for number in range(10)]

    assert len({chosen(places, affinity=f"c{number}") for number in range(20)}) == 1


def test_conversations_and_models_are_spread():
    """Each of ten equal places is the first for about a tenth of the models, and of the conversations."""
    places = [Place(f"box{number}", 0.0, resident=True) for number in range(10)]
    by_model = Counter(chosen(places, model=f"m{number}") for number in range(2000))
    by_affinity = Counter(chosen(places, affinity=f"c{number}") for number in range(2000))

    assert 150 < min(by_model.values()) <= max(by_model.values()) < 250
    assert 150 < min(by_affinity.values()) <= max(by_affinity.values()) < 250


def test_a_model_and_an_affinity_are_not_run_together():
    """What belongs to the model is never taken for the affinity's."""
    places = [Place(f"box{number}", 0, resident=True) for number in range(100)]

    assert chosen(places, "ab", "c") != chosen(places, "a", "bc")


def test_a_name_may_be_any_text():
    """A model is named by a client: what is no UTF-8 is a name like another."""
    assert chosen([Place("box", 0)], model="\udcff", affinity="\0") == "box"


def test_an_unknown_wait_comes_after_a_known_one():
    """Who says what a wait would be is preferred to who says nothing."""
    assert chosen([Place("dumb", None, resident=True), Place("far", 500)]) == "far"


def test_a_place_that_has_its_share_is_passed_over():
    """By the hash alone a hot model would be in one place only."""
    places = [Place(f"box{number}", None) for number in range(4)]
    home = chosen(places)
    loaded = [replace(place, in_flight=5 * (place.name == home)) for place in places]

    assert chosen(loaded) != home
