"""How much and how often: the bounds of a key, and of guessing keys."""

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmap.access.quota import Failures, Pace, Usage
from dmap.config import Key
from dmap.errors import Overloaded
from tests.fakes import DONE, END, SSE, chat, chunk, post


def begun(pace: Pace, per_min: int, times: list[float]) -> list[float]:
    """Return those of *times* at which something may begin and does."""
    free = []
    for now in times:
        if not pace.wait_s(per_min, now):
            pace.take(per_min, now)
            free.append(now)
    return free


# A pace


@pytest.mark.parametrize("per_min", [1, 2, 3, 7, 20, 59, 600, 999, 6000])
def test_a_minutes_worth_may_begin_at_once(per_min):
    """As many as belong into a minute begin at once, and not one more."""
    assert len(begun(Pace(), per_min, [1000.0] * (per_min + 5))) == per_min


def test_what_is_told_to_wait_is_just_enough():
    """After the time that it was told, and not a moment before, one more begins."""
    pace = Pace()
    begun(pace, 6, [1000.0] * 6)

    assert pace.wait_s(6, 1000.0) == pytest.approx(10)
    assert pace.wait_s(6, 1009.9) == pytest.approx(0.1)
    assert begun(pace, 6, [1009.9, 1010.0, 1010.0]) == [1010.0]


def test_a_pause_is_not_saved_up():
    """An hour without anything gives no more than a minute's worth."""
    pace = Pace()
    begun(pace, 5, [0.0] * 5)

    assert len(begun(pace, 5, [3600.0] * 20)) == 5


@settings(max_examples=300)
@given(st.integers(1, 50), st.lists(st.floats(0, 30), max_size=120))
def test_no_more_than_the_pace_over_any_time(per_min, pauses):
    """Over any span of time no more begins than a minute's worth and what that time adds."""
    times = [sum(pauses[: end + 1]) for end in range(len(pauses))]

    free = begun(Pace(), per_min, times)

    spans = [(later - sooner, n + 1) for i, sooner in enumerate(free) for n, later in enumerate(free[i:])]
    assert all(count <= per_min + span_s * per_min / 60 + 1e-3 for span_s, count in spans)


# A key's bounds


def bounded(name: str = "k", **bounds: int) -> Key:
    """Return a key with these bounds."""
    return Key(name=name, sha256="1" * 64, **bounds)


def used(times: int, lasted_s: float, key: Key) -> Usage:
    """Return what is used after so many requests with *key*, at the time 100, each ended before the next."""
    usage = Usage()
    for _ in range(times):
        usage.begin(key, 100.0)
        usage.end(lasted_s)
    return usage


def test_so_many_are_under_way_at_once():
    """Over `parallel` a request is refused until another ends."""
    usage, two = Usage(), bounded(parallel=2)
    usage.begin(two, 0.0)
    usage.begin(two, 0.0)

    with pytest.raises(Overloaded, match="'k' has 2 under way.*parallel"):
        usage.begin(two, 0.0)

    usage.end(1.0)
    usage.begin(two, 0.0)
    with pytest.raises(Overloaded, match="has 2 under way"):
        usage.begin(two, 0.0)


def test_the_wait_is_what_its_requests_take():
    """Where requests take 40 s and two run at once, one is likely to end within 20 s."""
    usage, two = used(60, 40.0, bounded()), bounded(parallel=2)
    usage.begin(two, 0.0)
    usage.begin(two, 0.0)

    with pytest.raises(Overloaded) as refused:
        usage.begin(two, 0.0)

    assert refused.value.headers()["Retry-After"] == "20"


@pytest.mark.parametrize(("lasted_s", "told"), [(30.0, "4"), (33.0, "5")])
def test_the_wait_after_one_request(lasted_s, told):
    """From the first on, each request counts for an eighth."""
    usage, one = used(1, lasted_s, bounded()), bounded(parallel=1)
    usage.begin(one, 0.0)

    with pytest.raises(Overloaded) as refused:
        usage.begin(one, 0.0)

    assert refused.value.headers()["Retry-After"] == told


def test_so_many_begin_in_a_minute():
    """Over `rate_per_min` a request is refused, with the time until the next may begin."""
    four = bounded(rate_per_min=4)
    usage = used(4, 0.1, four)

    with pytest.raises(Overloaded, match="rate_per_min") as refused:
        usage.begin(four, 103.0)

    assert refused.value.headers()["Retry-After"] == "12"
    usage.begin(four, 115.0)


def test_what_was_refused_does_not_count():
    """Refused requests use up neither the minute nor a place."""
    usage, key = Usage(), bounded(parallel=1, rate_per_min=2)
    usage.begin(key, 0.0)
    with pytest.raises(Overloaded, match="parallel"):
        usage.begin(key, 0.0)
    with pytest.raises(Overloaded, match="parallel"):
        usage.begin(key, 0.0)

    usage.end(0.0)

    usage.begin(key, 0.0)
    with pytest.raises(Overloaded, match="has 1 under way"):
        usage.begin(key, 0.0)


# Wrong keys


def failed(*addresses: str, per_min: int = 20, most: int = 4096) -> Failures:
    """Return what is known after a wrong key from each of *addresses*, at the time 50."""
    failures = Failures(most)
    for address in addresses:
        failures.count(address, per_min, 50.0)
    return failures


def test_over_the_bound_an_address_waits():
    """After so many wrong keys an address may try none, until enough time has gone by."""
    failures = failed(*["1.2.3.4"] * 20)

    assert failures.wait_s("1.2.3.4", 20, 50.0) == pytest.approx(3)
    assert failures.wait_s("1.2.3.4", 20, 53.1) == 0
    assert failures.wait_s("1.2.3.5", 20, 50.0) == 0
    assert len(failures.paces) == 1


def test_few_wrong_keys_do_no_harm():
    """Below the bound an address goes on."""
    failures = failed(*"a" * 19)

    assert failures.wait_s("a", 20, 50.0) == 0


def test_addresses_are_bounded():
    """Of more addresses than are remembered, the one that failed longest ago is forgotten."""
    failures = failed(*"abcad", per_min=1, most=3)

    assert len(failures.paces) == 3
    assert {address for address in "abcd" if failures.wait_s(address, 1, 50.0)} == {"a", "c", "d"}


# Through the daemon

KEY = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"
"""The SHA-256 of `key`."""


@pytest.fixture
def serve(start, backend):
    """Start a proxy with a key of the given bounds, whose backend answers by hand."""
    backend.script = backend.by_hand
    return lambda bounds, rest="": start(
        f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n"
        f"access: {{{rest} keys: [{{name: k, sha256: {KEY}, scopes: [inference, admin], {bounds}}}]}}"
    )


async def ask(proxy, request):
    """Send *request* on a connection of its own."""
    client = await proxy.client()
    await client.send(request)
    return client


CHAT = post(chat(), headers="x-api-key: key\r\n")
LIST = b"GET /v1/models HTTP/1.1\r\nHost: h\r\nx-api-key: key\r\n\r\n"
WRONG = LIST.replace(b"key\r\n", b"wrong\r\n")


async def test_too_many_at_once(serve, backend):
    """Over `parallel` a request is 429 with `Retry-After`; lists go on, and who leaves makes room."""
    proxy = await serve("parallel: 1")
    first = await ask(proxy, CHAT)
    exchange = await backend.next()

    refused = await (await ask(proxy, CHAT)).answer()
    listed = await (await ask(proxy, LIST)).answer()
    first.reset()
    await exchange.abandoned()
    second = await ask(proxy, CHAT)

    assert (refused.status, refused.error["code"], listed.status) == (429, "rate_limit_exceeded", 200)
    assert refused.head.headers["retry-after"] == "1"
    await (await backend.next()).end(SSE, chunk(DONE), END)
    assert (await second.answer()).status == 200


async def test_too_many_in_a_minute(serve, backend):
    """Over `rate_per_min` a request is 429 with the time until the next one; its body is not read."""
    proxy = await serve("rate_per_min: 1")
    began = time.monotonic()
    first = await ask(proxy, CHAT)
    await (await backend.next()).end(SSE, chunk(DONE), END)
    assert (await first.answer()).status == 200

    refused = await (await ask(proxy, CHAT[:-10])).answer()

    took_s = math.ceil(time.monotonic() - began)
    assert refused.status == 429
    assert 60 - took_s <= int(refused.head.headers["retry-after"]) <= 60
    assert "rate_per_min" in refused.error["message"]


async def test_too_many_wrong_keys(serve):
    """After so many wrong keys an address gets 429, whatever it sends."""
    proxy = await serve("", "failures_per_min: 2,")

    statuses = [(await (await ask(proxy, request)).answer()).status for request in (WRONG, LIST, WRONG, LIST)]

    assert statuses == [401, 200, 401, 429]


@pytest.mark.parametrize(
    "kind", ["", "Content-Type: text/plain\r\n", "Content-Type: multipart/form-data\r\n"]
)
async def test_a_form_changes_nothing(serve, kind):
    """What a page can send without asking the browser is 400 at `/admin`."""
    request = post(b"{}", "/admin/resume", headers=f"x-api-key: key\r\n{kind}")

    refused = await (await ask(await serve(""), request)).answer()

    assert (refused.status, refused.error["code"]) == (400, "invalid_request")
    assert "application/json" in refused.error["message"]
