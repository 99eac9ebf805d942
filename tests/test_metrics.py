"""What is measured: names, labels, values, and that the page and its documentation agree."""

import asyncio
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dmap.arbiter import Snapshot
from dmap.arbiter.state import ResidentView
from dmap.errors import DmapError
from dmap.events import Bus
from dmap.memory import Balance
from dmap.metrics.board import CLIENTS, Metrics
from dmap.metrics.outcome import STATUS, kind_of, status_of
from dmap.metrics.series import MODELS, Histogram, LabelLimit
from dmap.models import ModelKey
from tests.fakes import DONE, END, SSE, FakeBackend, answer, chat, chunk, delta, holding, post

DOCS = Path(__file__).parent.parent / "docs" / "metrics.md"
EMPTY = Snapshot(residents=(), plan=None, waiting={}, leases=0, oldest_wait_s=0)
USAGE = b'{"id": "1", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}'


def classes(root: type[DmapError] = DmapError) -> Iterator[type[DmapError]]:
    """Yield every class of the tree of errors."""
    yield root
    for child in root.__subclasses__():
        yield from classes(child)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def bus() -> Bus:
    return Bus(10, Clock())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(bus: Bus, clock: Clock) -> Metrics:
    return Metrics(bus, clock=clock, devices=lambda: {"gpu0": EMPTY}, backends=lambda: {"lms": True})


def ended(**fields: Any) -> dict[str, Any]:
    """The fields of a request's last event."""
    usual = {
        "id": "1",
        "client": "webui",
        "key": True,
        "method": "POST",
        "path": "/v1/chat/completions",
        "model": "qwen",
        "backend": "lms",
        "stream": True,
        "queue_s": 0.25,
        "switch_s": 0.0,
        "first_byte_s": 0.5,
        "total_s": 2.0,
        "bytes": 700,
        "chunks": 3,
        "tokens_in": 5,
        "tokens_out": 7,
        "status": 200,
        "outcome": "success",
    }
    return {name: value for name, value in (usual | fields).items() if value is not None}


def values(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples called *name* that are not 0, by the values of their labels."""
    return {
        tuple(value for label, value in sample.items() if label != "value"): sample["value"]
        for sample in metrics.as_dict().get(name, ())
        if sample["value"]
    }


class TestSeries:
    def test_names_over_the_bound(self) -> None:
        """The first names keep theirs, later ones share one."""
        names = LabelLimit(2)

        assert [names.of(name) for name in "abcab"] == ["a", "b", "(other)", "a", "b"]

    @pytest.mark.parametrize(
        ("value", "counts"),
        [(0.5, [1, 1, 1]), (1.0, [1, 1, 1]), (1.5, [0, 1, 1]), (9.0, [0, 0, 1])],
        ids=["below", "on the bound", "between", "above all"],
    )
    def test_a_value_is_counted_in_every_bucket_that_holds_it(self, value: float, counts: list[int]) -> None:
        """Buckets are cumulative and hold their upper end, as Prometheus has it."""
        histogram = Histogram("h", (1.0, 2.0), "model", "meaning")

        histogram.observe(value, "m")

        family = histogram.family()
        assert [s.value for s in family.samples if s.name == "h_bucket"] == counts
        assert [s.value for s in family.samples if s.name in ("h_count", "h_sum")] == [1, value]


class TestOutcomes:
    @pytest.mark.parametrize("error", sorted(classes(), key=lambda error: error.__name__))
    def test_every_error_has_a_status(self, error: type[DmapError]) -> None:
        """Each code of the tree of errors is one of the six statuses, by name and not by default."""
        assert STATUS[error.code] in {"success", "upstream_error", "timeout", "error", "refused", "cancelled"}

    def test_every_error_is_documented(self) -> None:
        """The table of statuses has each code in the row of its status."""
        rows = dict(re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*)\|$", DOCS.read_text(), re.MULTILINE))
        told = {code: status for status, codes in rows.items() for code in re.findall(r"`(\w+)`", codes)}

        assert told == {code: status for code, status in STATUS.items() if code != "success"}

    @pytest.mark.parametrize(
        ("fields", "status", "kind"),
        [
            ({"outcome": "model_load_failed", "status": 502}, "upstream_error", "model_load_failed"),
            ({"outcome": "backend_error", "status": 200}, "upstream_error", "told_5xx"),
            ({"outcome": "success", "status": 400}, "upstream_error", "told_4xx"),
            ({"outcome": "success", "status": 500}, "upstream_error", "told_5xx"),
            ({"outcome": "insufficient_quota", "status": 429}, "upstream_error", "told_4xx"),
            ({"outcome": "wait_expired", "status": 503}, "timeout", "wait_expired"),
        ],
        ids=lambda value: value["outcome"] if isinstance(value, dict) else None,
    )
    def test_kinds(self, fields: dict[str, Any], status: str, kind: str) -> None:
        """A failure is named by dmap's code, and by no code that a backend made up."""
        assert (status_of(fields), kind_of(fields)) == (status, kind)

    def test_no_code_of_ours_is_unknown(self) -> None:
        """The table has no code that nothing gives."""
        given = {error.code for error in classes()} | {"success", "client_left", "backend_error"}

        assert set(STATUS) == given


class TestRequests:
    def test_an_answer(self, metrics: Metrics, bus: Bus) -> None:
        """A finished request leaves its duration, wait, first byte, tokens, chunks and bytes."""
        bus.tell("request.finished", ended())

        assert values(metrics, "dmap_request_duration_seconds_sum") == {("qwen", "success"): 2.0}
        assert values(metrics, "dmap_queue_wait_seconds_sum") == {("qwen",): 0.25}
        assert values(metrics, "dmap_first_byte_seconds_sum") == {("qwen",): 0.5}
        assert values(metrics, "dmap_tokens_in_total") == {("qwen", "webui"): 5}
        assert values(metrics, "dmap_tokens_out_total") == {("qwen", "webui"): 7}
        assert values(metrics, "dmap_chunks_total") == {("qwen",): 3}
        assert values(metrics, "dmap_answer_bytes_total") == {("qwen",): 700}

    @pytest.mark.parametrize(
        ("outcome", "name", "key"),
        [
            ("rate_limit_exceeded", "dmap_refused_total", ("rate_limit_exceeded",)),
            ("backend_slow", "dmap_timeouts_total", ("backend_slow",)),
            ("backend_broke", "dmap_upstream_errors_total", ("lms", "backend_broke")),
        ],
    )
    def test_a_failure(self, metrics: Metrics, bus: Bus, outcome: str, name: str, key: tuple[str]) -> None:
        """A failed request is counted once more where it belongs, and nowhere else."""
        bus.tell("request.failed", ended(outcome=outcome, status=500, first_byte_s=None))

        counted = ("dmap_refused_total", "dmap_timeouts_total", "dmap_upstream_errors_total")
        assert {n: v for n in counted if (v := values(metrics, n))} == {name: {key: 1}}
        assert values(metrics, "dmap_first_byte_seconds_count") == {}

    def test_a_request_without_a_model(self, metrics: Metrics, bus: Bus) -> None:
        """A request refused before its model was known has no model, and waited for none."""
        bus.tell("request.failed", ended(model=None, backend=None, outcome="model_not_found", status=404))

        assert values(metrics, "dmap_request_duration_seconds_count") == {("(none)", "refused"): 1}
        assert values(metrics, "dmap_queue_wait_seconds_count") == {}

    def test_addresses_are_one(self, metrics: Metrics, bus: Bus) -> None:
        """Clients without a key share one label."""
        bus.tell("request.finished", ended(client="192.0.2.1", key=False))
        bus.tell("request.finished", ended(client="192.0.2.2", key=False))

        assert values(metrics, "dmap_tokens_out_total") == {("qwen", "(address)"): 14}

    def test_too_many_models_and_clients(self, metrics: Metrics, bus: Bus) -> None:
        """However many models and clients there are, there are only so many series."""
        for n in range(MODELS + 50):
            bus.tell("request.finished", ended(model=f"m{n}"))
        for n in range(CLIENTS + 50):
            bus.tell("request.finished", ended(model="m0", client=f"c{n}"))

        durations = values(metrics, "dmap_request_duration_seconds_count")
        tokens = values(metrics, "dmap_tokens_out_total")
        assert (len(durations), durations["(other)", "success"]) == (MODELS + 1, 50)
        assert len({client for _, client in tokens}) == CLIENTS + 1

    def test_waits_by_key(self, metrics: Metrics, bus: Bus) -> None:
        """Waits and first bytes are told by the names of keys, and not of those without one."""
        bus.tell("request.finished", ended())
        bus.tell("request.finished", ended(client="10.0.0.1", key=False))

        assert values(metrics, "dmap_client_queue_wait_seconds_sum") == {("webui",): 0.25}
        assert values(metrics, "dmap_client_first_byte_seconds_sum") == {("webui",): 0.5}


class TestTheStart:
    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("dmap_switch_failures_total", ("gpu0",)),
            ("dmap_switches_total", ("gpu0", "patience")),
            ("dmap_evictions_total", ("gpu0", "ttl")),
            ("dmap_upstream_errors_total", ("lms", "told_5xx")),
            ("dmap_refused_total", ("model_not_found",)),
            ("dmap_timeouts_total", ("wait_expired",)),
            ("dmap_access_denied_total", ("invalid_api_key",)),
            ("dmap_config_reloads_total", ("refused",)),
            ("dmap_outside_changes_total", ("vanished",)),
            ("dmap_drain_seconds_count", ("gpu0",)),
            ("dmap_switch_duration_seconds_count", ("gpu0",)),
        ],
    )
    def test_what_can_be_counted_is_there(self, metrics: Metrics, name: str, key: tuple[str]) -> None:
        """From the first scrape on a series is there at 0, so that its first step up is seen as one."""
        first = {tuple(one.values())[:-1]: one["value"] for one in metrics.as_dict()[name]}

        assert first[key] == 0


class TestSwitches:
    def test_a_switch(self, metrics: Metrics, bus: Bus) -> None:
        """A switch is counted by its reason, and timed from its start to the model that answers."""
        told = {"device": "gpu0", "load": "lms/b", "unload": ["lms/a"], "reason": "patience", "drain_s": 4.0}
        bus.tell("switch.drained", told)
        bus.tell("switch.unloaded", {"device": "gpu0", "model": "a", "reason": "patience", "unload_s": 1.0})
        bus.tell("switch.loaded", {"device": "gpu0", "model": "b", "unload_s": 2.0, "load_s": 7.0})

        assert values(metrics, "dmap_switches_total") == {("gpu0", "patience"): 1}
        assert values(metrics, "dmap_evictions_total") == {("gpu0", "patience"): 1}
        assert values(metrics, "dmap_drain_seconds_sum") == {("gpu0",): 4.0}
        assert values(metrics, "dmap_switch_duration_seconds_sum") == {("gpu0",): 9.0}
        assert values(metrics, "dmap_load_seconds_sum") == {("b",): 7.0}

    def test_memory(self, bus: Bus, clock: Clock) -> None:
        """What is known of the memory of devices is there; a device of which nothing is known is not."""
        known = {"gpu0": Balance(24, 5, models=3), "gpu1": None}
        metrics = Metrics(bus, clock=clock, devices=dict, backends=dict, memory=lambda: known)

        assert metrics.as_dict()["dmap_device_memory_bytes"] == [
            {"device": "gpu0", "kind": "total", "value": 24},
            {"device": "gpu0", "kind": "used", "value": 5},
            {"device": "gpu0", "kind": "models", "value": 3},
        ]

    def test_an_unloading_alone(self, metrics: Metrics, bus: Bus) -> None:
        """What only unloads is an eviction, but no switch: nobody waited for it."""
        told = {"device": "gpu0", "load": None, "unload": ["lms/a"], "reason": "ttl", "drain_s": 0.0}
        bus.tell("switch.drained", told)
        bus.tell("switch.unloaded", {"device": "gpu0", "model": "a", "reason": "ttl", "unload_s": 1.0})

        assert values(metrics, "dmap_switches_total") == {}
        assert values(metrics, "dmap_evictions_total") == {("gpu0", "ttl"): 1}

    def test_a_failure(self, metrics: Metrics, bus: Bus) -> None:
        """A failed switch is counted, and its reason, which is a text, is no label."""
        bus.tell(
            "switch.drained",
            {"device": "gpu0", "load": "lms/b", "unload": [], "reason": "room", "drain_s": 0.0},
        )
        bus.tell("switch.failed", {"device": "gpu0", "model": "b", "reason": "no such file: /x"})

        assert values(metrics, "dmap_switch_failures_total") == {("gpu0",): 1}
        assert values(metrics, "dmap_switch_duration_seconds_count") == {}


async def scraped(proxy: Any, **headers: str) -> str:
    """Return the page."""
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{proxy.url}/metrics") as answer,
    ):
        assert answer.status == 200
        return await answer.text()


def samples(page: str, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples called *name* on a page by the values of their labels, sorted by label."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


class TestThePage:
    async def test_a_stream(self, proxy: Any, backend: FakeBackend) -> None:
        """A stream through the proxy is on the page when it is over."""
        backend.script = lambda e: e.write(SSE, chunk(delta("one")), chunk(delta("two")), chunk(DONE), END)
        client = await proxy.client()
        await client.send(post(chat()))
        await client.answer()
        await proxy.settled()

        page = await scraped(proxy)

        assert samples(page, "dmap_request_duration_seconds_count") == {("m", "success"): 1}
        assert samples(page, "dmap_first_byte_seconds_count") == {("m",): 1}
        assert samples(page, "dmap_answer_bytes_total")[("m",)] > 0
        assert samples(page, "dmap_chunks_total")[("m",)] > 0

    async def test_tokens(self, proxy: Any, backend: FakeBackend) -> None:
        """The backend's count of tokens is on the page, under no address."""
        backend.script = lambda exchange: exchange.write(answer(USAGE))
        client = await proxy.client()
        await client.send(post(chat(stream=False)))
        await client.answer()
        await proxy.settled()

        page = await scraped(proxy)

        assert samples(page, "dmap_tokens_in_total") == {("(address)", "m"): 5}
        assert samples(page, "dmap_tokens_out_total") == {("(address)", "m"): 7}

    async def test_what_clients_write_is_no_label(self, proxy: Any) -> None:
        """Neither an unknown model's name nor an address nor a path becomes a label."""
        client = await proxy.client()
        await client.send(post(chat(model="planted-model")))
        await client.answer()
        await client.send(post(chat(), path="/planted-path"))
        await client.answer()

        page = await scraped(proxy)

        assert samples(page, "dmap_request_duration_seconds_count") == {("(none)", "refused"): 1}
        refused = samples(page, "dmap_refused_total")
        assert (refused[("model_not_found",)], sum(refused.values())) == (1, 1)
        assert "planted" not in page and "127.0.0.1" not in page

    async def test_the_queue_as_it_is(self, start: Any, backend: FakeBackend) -> None:
        """Who waits and who is answered is on the page while it is so."""
        backend.script = backend.by_hand
        proxy = await start(f"backends: {{fake: {{kind: openai, url: '{backend.url}', parallel: 1}}}}")
        clients = [await proxy.client() for _ in range(3)]
        await asyncio.gather(*(client.send(post(chat(stream=False))) for client in clients))
        held = await backend.next()
        await holding(proxy, 3)

        page = await scraped(proxy)

        assert samples(page, "dmap_queue_depth") == {("backend fake",): 2}
        assert samples(page, "dmap_leases") == {("backend fake",): 1}
        assert samples(page, "dmap_oldest_wait_seconds")[("backend fake",)] > 0
        backend.script = lambda exchange: exchange.write(answer(USAGE))
        await held.end(answer(USAGE))
        await asyncio.gather(*(client.answer() for client in clients))

    async def test_switches_of_real_engines(self, start: Any, models: Path) -> None:
        """Two models that do not fit together leave two switches, an eviction and one resident."""
        proxy = await start(
            "devices: {gpu0: {cooldown_s: 0, patience_s: 0.1, residency: 0}}\n"
            f"backends: {{engine: {{kind: gguf, path: {models}, device: gpu0, threads: 1}}}}"
        )
        client = await proxy.client()
        await client.send(post(chat(model="tiny-sea", stream=False, max_tokens=2)))
        await client.answer()
        await client.send(post(chat(model="tiny-kitchen", stream=False, max_tokens=2)))
        await client.answer()
        await proxy.settled()

        page = await scraped(proxy)

        assert sum(samples(page, "dmap_switches_total").values()) == 2
        assert sum(samples(page, "dmap_evictions_total").values()) == 1
        assert samples(page, "dmap_switch_duration_seconds_count") == {("gpu0",): 2}
        assert samples(page, "dmap_load_seconds_count") == {("tiny-sea",): 1, ("tiny-kitchen",): 1}
        assert samples(page, "dmap_resident_leases") == {("gpu0", "tiny-kitchen"): 0}
        assert samples(page, "dmap_tokens_out_total")[("(address)", "tiny-kitchen")] == 2

    async def test_a_key_is_needed_where_there_are_keys(self, start: Any, backend: FakeBackend) -> None:
        """With keys, the page is for those who have one; who has none is counted."""
        digest = hashlib.sha256(b"secret").hexdigest()
        proxy = await start(
            f"access: {{keys: [{{name: webui, sha256: '{digest}'}}]}}\n"
            f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}"
        )
        async with aiohttp.ClientSession() as session, session.get(f"{proxy.url}/metrics") as refused:
            assert refused.status == 401

        page = await scraped(proxy, Authorization="Bearer secret")

        denied = samples(page, "dmap_access_denied_total")
        assert denied == {("access_denied",): 0, ("invalid_api_key",): 1, ("rate_limit_exceeded",): 0}
        assert "secret" not in page and digest not in page

    async def test_a_backend_that_is_down(self, start: Any) -> None:
        """A backend that does not answer is told as down."""
        proxy = await start("backends: {gone: {kind: openai, url: 'http://127.0.0.1:1'}}")

        assert samples(await scraped(proxy), "dmap_backend_up") == {("gone",): 0}

    async def test_the_loop_is_watched(self, proxy: Any) -> None:
        """The lag of the loop is measured while the proxy runs."""
        async with asyncio.timeout(30):
            while not proxy.proxy.metrics.as_dict()["dmap_loop_lag_seconds_count"][0]["value"]:
                await asyncio.sleep(0.05)

    @pytest.mark.parametrize(
        ("accept", "kind"),
        [
            ("*/*", "text/plain"),
            ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
        ],
    )
    async def test_formats(self, proxy: Any, accept: str, kind: str) -> None:
        """The scraper gets the format that it asks for."""
        async with (
            aiohttp.ClientSession(headers={"Accept": accept}) as session,
            session.get(f"{proxy.url}/metrics") as answer,
        ):
            page = await answer.text()

        assert answer.content_type == kind
        assert page.endswith("# EOF\n") == (kind == "application/openmetrics-text")


def one_of_each(bus: Bus) -> None:
    """Have every series appear."""
    bus.tell("request.finished", ended())
    bus.tell("request.failed", ended(outcome="model_not_found"))
    bus.tell("request.failed", ended(outcome="backend_slow"))
    bus.tell("request.failed", ended(outcome="backend_broke"))
    told = {"device": "gpu0", "load": "lms/b", "unload": ["lms/a"], "reason": "idle", "drain_s": 0.0}
    bus.tell("switch.drained", told)
    bus.tell("switch.unloaded", {"device": "gpu0", "model": "a", "reason": "idle", "unload_s": 1.0})
    bus.tell("switch.loaded", {"device": "gpu0", "model": "b", "unload_s": 1.0, "load_s": 1.0})
    bus.tell("switch.failed", {"device": "gpu0", "model": "b", "reason": "why"})
    bus.tell("request.mismatch", {"id": "1", "model": "b", "answered": "c"})
    bus.tell("request.retried", {"id": "1", "model": "b", "reason": "gone"})
    bus.tell("request.moved", {"id": "1", "model": "b", "reason": "why", "code": "backend_down"})
    bus.tell("request.routed", {"id": "1", "model": "b", "node": "box1", "reason": "resident"})
    bus.tell("access.denied", {"client": "x", "path": "/", "status": 401, "code": "invalid_api_key"})
    bus.tell("config.reloaded", {})
    bus.tell("model.appeared", {"device": "gpu0", "model": "c"})


def test_documented(bus: Bus, clock: Clock) -> None:
    """`docs/metrics.md` has every metric of the page with its type and labels, and no other."""
    one = ResidentView(ModelKey("lms", "a"), leases=1, waiting=0, since=0.0, leaving=False)
    view = replace(EMPTY, residents=(one,))
    metrics = Metrics(
        bus,
        clock=clock,
        devices=lambda: {"gpu0": view},
        backends=lambda: {"lms": True},
        memory=lambda: {"gpu0": Balance(24, 5)},
        redis=lambda: True,
        cache=lambda: True,
        nodes=lambda: {"lms": 0.5},
    )
    metrics.redis_s.observe(0.001, "quota")
    one_of_each(bus)
    row = re.compile(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$", re.MULTILINE)

    documented = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in row.findall(DOCS.read_text().replace("| |", "|  |"))
    }

    assert documented == dict(described(metrics))


def described(metrics: Metrics) -> Iterator[tuple[str, tuple[str, set[str]]]]:
    """Yield the name, the type and the labels of each family of the page."""
    for family in metrics.registry.collect():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        yield family.name + "_total" * (family.type == "counter"), (family.type, labels)
