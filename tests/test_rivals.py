"""Two dmaps that nothing keeps apart in front of one LM Studio: it shows, and nobody is refused for it."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from dmap.events import Bus
from dmap.web.rivals import SHOWN_S, TOLD_S, USED_S, WITHIN_S, Rivals
from tests.fakes import soon
from tests.lmstudio_emulator import Emulator, emulator
from tests.lmstudio_world import GB

OURS = ("qwen/qwen3-8b", "google/gemma-3-12b")
THEIRS = ("openai/gpt-oss-20b", "mistralai/mistral-small-3.2")
SERVERS = {"studio"}
GONE = {"device": "gpu0", "backend": "studio", "model": "a"}


class Clock:
    """Time that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def bus(clock: Clock) -> Bus:
    return Bus(100, clock)


@pytest.mark.parametrize(
    ("types", "is_busy", "told"),
    [
        (("model.vanished", "model.appeared"), True, {"studio"}),
        (("model.vanished", "model.vanished"), True, {"studio"}),
        (("model.vanished", "model.appeared"), False, set()),
        (("model.vanished",), True, set()),
        (("model.appeared",) * 20, True, set()),
    ],
)
def test_what_counts(bus: Bus, types: tuple[str, ...], is_busy: bool, told: set[str]) -> None:
    """A model that goes and another change count, beside requests; twenty loads by hand do not."""
    rivals = Rivals(bus, lambda device: is_busy, SERVERS)

    _ = [bus.tell(each, GONE) for each in types]

    assert rivals.suspected() == told


def test_changes_that_are_far_apart(bus: Bus, clock: Clock) -> None:
    """Changes count together within a while, and what was told is over some time after the last."""
    rivals = Rivals(bus, lambda device: True, SERVERS)
    bus.tell("model.vanished", GONE)
    clock.now += WITHIN_S + 1
    bus.tell("model.appeared", GONE)
    apart = rivals.suspected()
    bus.tell("model.vanished", GONE)

    assert (apart, rivals.suspected()) == (set(), {"studio"})
    clock.now += SHOWN_S
    assert rivals.suspected() == set()


def test_it_is_logged_now_and_then(bus: Bus, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """However often models come and go, the log has it once, and again when some time has passed."""
    Rivals(bus, lambda device: True, SERVERS)

    _ = [bus.tell("model.vanished", GONE) for _ in range(10)]
    often = len(caplog.messages)
    clock.now += TOLD_S
    _ = [bus.tell("model.vanished", GONE) for _ in range(10)]

    assert (often, len(caplog.messages)) == (1, 2)


@pytest.mark.parametrize("failed", ["request.failed", "request.retried"])
def test_requests_that_have_just_failed(bus: Bus, failed: str) -> None:
    """A request that a rival's unload has just ended counts as one that runs."""
    rivals = Rivals(bus, lambda device: False, SERVERS)
    bus.tell(failed, {"backend": "studio", "model": "b"})

    _ = [bus.tell(each, GONE) for each in ("model.vanished", "model.appeared")]

    assert rivals.suspected() == {"studio"}


@pytest.mark.parametrize(
    ("model", "later_s", "told"),
    [("a", 0.0, {"studio"}), ("a", USED_S, set()), ("b", 0.0, set())],
)
def test_a_model_that_goes_under_its_requests(
    bus: Bus, clock: Clock, model: str, later_s: float, told: set[str]
) -> None:
    """One such change does: loads of large models are far apart, and nobody does that by hand."""
    rivals = Rivals(bus, lambda device: True, SERVERS)
    bus.tell("request.failed", {"backend": "studio", "model": model})
    clock.now += later_s

    bus.tell("model.vanished", GONE)

    assert rivals.suspected() == told


def test_a_load_counts_from_its_begin(bus: Bus, caplog: pytest.LogCaptureFixture) -> None:
    """Look after look it is one change with its end; beside a model that goes it is told at once."""
    rivals = Rivals(bus, lambda device: True, SERVERS)
    _ = [rivals.note_arriving("gpu0", "studio", ["b"]) for _ in range(20)]
    bus.tell("model.appeared", {**GONE, "model": "b"})
    alone = rivals.suspected()

    bus.tell("model.vanished", GONE)

    assert (alone, rivals.suspected()) == (set(), {"studio"})
    assert "changes=2" in caplog.text


def test_a_load_is_seen_after_a_model_went(bus: Bus, clock: Clock) -> None:
    """However long it takes then, the warning is over as if it had been quick."""
    rivals = Rivals(bus, lambda device: True, SERVERS)
    bus.tell("model.vanished", GONE)
    rivals.note_arriving("gpu0", "studio", ["b"])
    early = rivals.suspected()
    clock.now += SHOWN_S / 2
    rivals.note_arriving("gpu0", "studio", ["b"])
    clock.now += SHOWN_S / 2

    assert (early, rivals.suspected()) == ({"studio"}, set())


def test_loads_while_nobody_asks(bus: Bus) -> None:
    """They are nobody's business, until a request waits for one of them to end."""
    busy = set[str]()
    rivals = Rivals(bus, busy.__contains__, SERVERS)
    busy.add("gpu0")
    bus.tell("model.vanished", GONE)
    busy.clear()
    rivals.note_arriving("gpu0", "studio", ["b"])
    idle = rivals.suspected()

    busy.add("gpu0")
    rivals.note_arriving("gpu0", "studio", ["b"])

    assert (idle, rivals.suspected()) == (set(), {"studio"})


def test_a_server_that_was_killed_is_no_rival(bus: Bus, clock: Clock) -> None:
    """It loses its models, under requests too, time and again; what goes later has another reason."""
    rivals = Rivals(bus, lambda device: True, SERVERS)
    bus.tell("request.failed", {"backend": "studio", "model": "a"})
    rivals.note_down("studio")
    _ = [bus.tell("model.vanished", GONE) for _ in range(5)]
    lost = rivals.suspected()

    clock.now += USED_S
    _ = [bus.tell("model.vanished", GONE) for _ in range(2)]

    assert (lost, rivals.suspected()) == (set(), {"studio"})


def test_what_only_dmap_starts_has_no_rivals(bus: Bus) -> None:
    """Children of dmap that die are nobody's doing."""
    rivals = Rivals(bus, lambda device: True, SERVERS)

    _ = [bus.tell("model.vanished", {**GONE, "backend": "engine"}) for _ in range(5)]

    assert rivals.suspected() == set()


@pytest.fixture
async def lm() -> AsyncGenerator[Emulator]:
    """Run an LM Studio."""
    async with emulator() as lm:
        yield lm


def config_of(lm: Emulator) -> str:
    """Return the configuration of a dmap that switches the models of *lm*."""
    studio = f"{{kind: lmstudio, url: '{lm.url}', device: gpu0}}"
    return f"devices: {{gpu0: {{cooldown_s: 0}}}}\nbackends: {{studio: {studio}}}"


async def ask_on(proxy: Any, model: str, stop: asyncio.Event) -> None:
    """Ask *proxy* for answers of *model*, one after the other, until *stop*."""
    while not stop.is_set():
        await ask(proxy, model)


async def ask(proxy: Any, model: str) -> int:
    """Ask *proxy* for one answer of *model*; return its status."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 200}
    async with (
        aiohttp.ClientSession(proxy.url) as session,
        session.post("/v1/chat/completions", json=body) as answered,
    ):
        await answered.read()
        return answered.status


async def test_two_dmaps_on_one_server(start: Any, lm: Emulator, caplog: Any) -> None:
    """Within 10 s both of two dmaps that take each other's models out say so, in the log and in `/ready`."""
    one, two = await start(config_of(lm)), await start(config_of(lm))
    stop = asyncio.Event()
    wanted = [*((one, model) for model in OURS), *((two, model) for model in THEIRS)]
    asking = [asyncio.create_task(ask_on(*each, stop)) for each in wanted]

    await soon(lambda: all(each.proxy.rivals.suspected() for each in (one, two)), 10)

    said = [await warnings(each) for each in (one, two)]
    stop.set()
    await asyncio.gather(*asking)
    assert [each["warning"] for each in said] == ["something else switches its models, too"] * 2
    assert sum("switched_by_others backend=studio" in line for line in caplog.messages) == 2


async def test_a_rival_whose_load_takes_long(start: Any, lm: Emulator) -> None:
    """It is told as soon as that load is seen, though it does not end, and no request has failed."""
    proxy = await start(config_of(lm))
    await ask(proxy, OURS[0])
    proxy.proxy.drain("gpu0", unload=False)
    waiting = asyncio.create_task(ask(proxy, OURS[1]))
    await soon(lambda: proxy.proxy.devices["gpu0"].snapshot().waiting == 1, 10)

    lm.world.unload(OURS[0])
    lm.world.knobs = replace(lm.world.knobs, load_s=600)
    loading = asyncio.create_task(lm.world.load(THEIRS[0]))

    await soon(lambda: proxy.proxy.rivals.suspected() == SERVERS, 10)
    _ = [each.cancel() for each in (waiting, loading)]
    await asyncio.gather(waiting, loading, return_exceptions=True)


async def test_loads_by_hand(start: Any, lm: Emulator) -> None:
    """Twenty of them under requests, each seen on its way, are no reason to warn."""
    lm.world.knobs = replace(lm.world.knobs, load_s=0.2, memory_bytes=64 * GB)
    proxy, stop = await start(config_of(lm)), asyncio.Event()
    asking = [asyncio.create_task(ask_on(proxy, model, stop)) for model in OURS]

    _ = [await lm.world.load(model) for model in 10 * ("llama-3.2-1b-instruct", "ibm/granite-4-micro")]

    told = proxy.proxy.rivals.suspected()
    stop.set()
    await asyncio.gather(*asking)
    assert (told, lm.world.cuts()) == (set(), [])


async def warnings(proxy: Any) -> Any:
    """Return what `/ready` says of the backend."""
    async with aiohttp.ClientSession(proxy.url) as session, session.get("/ready") as answered:
        assert answered.status == 200
        return (await answered.json())["backends"]["studio"]
