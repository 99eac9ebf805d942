"""The LM Studio backend against an emulated LM Studio with all its traps."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest

from dmap.backends import Loaded
from dmap.backends.lmstudio.backend import LMStudioBackend
from dmap.backends.lmstudio.models import read_v1
from dmap.config import Device
from dmap.errors import BackendDown, LoadFailed
from dmap.gate import Gate
from dmap.models import ModelKey, Route
from tests.fakes import Exchange, FakeBackend, answer, fake_backend
from tests.lmstudio_emulator import Emulator, Knobs, Traps, emulator, section
from tests.lmstudio_world import Refusal

SMALL, OTHER, BIG, VAST = (
    "llama-3.2-1b-instruct",
    "ibm/granite-4-micro",
    "openai/gpt-oss-20b",
    "mistralai/mistral-small-3.2",
)
EMBED = "text-embedding-nomic-embed-text-v1.5"
CHAT = "/v1/chat/completions"
TOKEN = "sk-lm-abcdefgh:12345678901234567890"
LIMIT_S = 60
"""Only a machine that stands still takes that long."""
WHILE_S = 0.4
"""How long a load takes during which something is done: time for that on a slow machine too."""
V1, V0 = "/api/v1/models", "/api/v0/models"


class Bench:
    """A backend, the emulator behind it, and how often the gate would have been told of changes."""

    def __init__(self, lm: Emulator, backend: LMStudioBackend) -> None:
        self.lm, self.world, self.backend = lm, lm.world, backend
        self.changes = 0
        self.by_hand: asyncio.Future | None = None
        backend.changed = self._changed

    def _changed(self) -> None:
        self.changes += 1

    async def residents(self) -> list[str]:
        return sorted(model.id for model in await self.backend.models() if model.resident)

    async def arriving(self) -> list[str]:
        return sorted(model.id for model in await self.backend.models() if model.arriving)

    def asked(self, path: str) -> list[dict]:
        return [body for _, asked, body in self.lm.requests if asked == path]

    async def said(self, model: str) -> list[str]:
        """Send a chat request where the backend says, and return the words of the answer."""
        target = self.backend.target(model, CHAT)
        url = f"http://{target.host}:{target.port}{target.path}"
        body = {"model": model, "messages": []}
        async with (
            aiohttp.ClientSession(headers=dict(target.headers)) as session,
            session.post(url, json=body) as got,
        ):
            return (await got.json())["choices"][0]["message"]["content"].split()

    async def happened(self, event: str, times: int = 1) -> None:
        await until(lambda: len(self.world.happened(event)) >= times)


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.002)


@asynccontextmanager
async def running(*, api_key: str | None = None, load_s: float = LIMIT_S, **options) -> AsyncGenerator[Bench]:
    """Run a backend before an emulator with *options* for its traps and knobs; `slow_s` is a load's time."""
    traps = {name: value for name, value in options.items() if name in Traps.__dataclass_fields__}
    knobs = {name: value for name, value in options.items() if name in Knobs.__dataclass_fields__}
    knobs["load_s"] = options.get("slow_s", 0.02)
    async with (
        asyncio.timeout(LIMIT_S),
        emulator(replace(Traps(), **traps), replace(Knobs(), **knobs)) as lm,
    ):
        backend = LMStudioBackend(
            "studio",
            section(f"{lm.url}/v1", api_key=api_key, load_s=load_s),
            watch_s=options.get("watch_s", 0.02),
            disagree_s=options.get("disagree_s", 0.2),
            poll_s=0.005,
        )
        try:
            yield Bench(lm, backend)
        finally:
            await backend.close()


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    """A backend before an emulator with every trap on."""
    async with running() as bench:
        yield bench


def lines(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.getMessage().startswith(f"{event} ")]


# Loading and unloading


async def test_a_loaded_model_answers(bench):
    """After load the model answers under its key, at once, whatever v0 says."""
    loaded = await bench.backend.load(SMALL, {"context_length": 8192})

    assert loaded == Loaded(size_bytes=10**9, context_length=8192, parallel=4)
    assert set(await bench.said(SMALL)) == {SMALL}
    assert await bench.residents() == [SMALL]
    assert [one["by"] for one in bench.world.happened("load_start")] == ["rest"]


async def test_an_unloaded_model_is_gone(bench):
    """After unload nothing is in memory, and there is no target."""
    await bench.backend.load(SMALL, {})

    await bench.backend.unload(SMALL)

    assert bench.world.instances == {}
    assert await bench.residents() == []
    with pytest.raises(BackendDown, match="is not loaded on backend 'studio' any more; try again"):
        bench.backend.target(SMALL, CHAT)


async def test_load_and_unload_may_be_repeated(bench):
    """Loading what is loaded loads nothing, unloading what is not there asks nothing of the server."""
    first = await bench.backend.load(SMALL, {})

    assert await bench.backend.load(SMALL, {}) == first
    await bench.backend.unload(SMALL)
    await bench.backend.unload(SMALL)
    await bench.backend.unload("never-heard-of")

    assert len(bench.asked(f"{V1}/load")) == 1
    assert len(bench.asked(f"{V1}/unload")) == 1


async def test_loads_at_once_are_one_load(bench):
    """Five loads of one model make one instance."""
    loaded = await asyncio.gather(*(bench.backend.load(SMALL, {}) for _ in range(5)))

    assert len(set(loaded)) == 1
    assert list(bench.world.instances) == [SMALL]
    assert len(bench.asked(f"{V1}/load")) == 1


async def test_only_known_keys_are_sent(bench):
    """The closed schema of load is kept: every option that REST takes goes through, and nothing else."""
    options = {
        "context_length": 2048,
        "eval_batch_size": 256,
        "flash_attention": True,
        "num_experts": 4,
        "offload_kv_cache_to_gpu": False,
    }

    await bench.backend.load(SMALL, options)

    assert bench.asked(f"{V1}/load") == [{"model": SMALL, **options, "echo_load_config": True}]


async def test_an_unknown_model_is_refused(bench):
    """A model that LM Studio does not list is never asked for, for some other one might answer."""
    with pytest.raises(LoadFailed, match="does not list it"):
        await bench.backend.load("gpt-4o-mini", {})

    assert bench.asked(f"{V1}/load") == []


# Adopting, and what is there already


async def test_a_model_loaded_by_hand_is_adopted(bench):
    """An instance with context enough is taken as it is."""
    await bench.world.load(SMALL, {"context_length": 8192})

    loaded = await bench.backend.load(SMALL, {"context_length": 4096})

    assert loaded.context_length == 8192
    assert bench.asked(f"{V1}/load") == []


async def test_a_model_with_too_little_context_is_loaded_again(bench, caplog):
    """An instance with less context than asked is unloaded first; there are never two."""
    await bench.world.load(SMALL, {"context_length": 2048})

    loaded = await bench.backend.load(SMALL, {"context_length": 4096})

    assert loaded.context_length == 4096
    assert bench.world.stacks() == []
    assert "too little context" in lines(caplog, "instance_unloaded")[0]


async def test_surplus_instances_are_taken_out(bench, caplog):
    """A load keeps one instance, the one that bears the key, and tells of the others."""
    await bench.world.load(SMALL)
    await bench.world.load(SMALL)
    await bench.world.load(SMALL, identifier="mine")

    await bench.backend.load(SMALL, {})

    assert list(bench.world.instances) == [SMALL]
    assert len(lines(caplog, "instance_unloaded")) == 2
    assert set(await bench.said(SMALL)) == {SMALL}


async def test_unload_takes_all_instances(bench):
    """Every instance of a model goes, whatever its id; those of others stay."""
    await bench.world.load(SMALL)
    await bench.world.load(SMALL)
    await bench.world.load(SMALL, identifier="mine")
    await bench.world.load(OTHER)

    await bench.backend.unload(SMALL)

    assert list(bench.world.instances) == [OTHER]


async def test_a_model_under_another_name_is_loaded_under_its_key():
    """When only `key:2` is left, it is resident but does not satisfy; a load gives the key its instance."""
    async with running(v0_lag_s=0) as bench:
        await bench.world.load(SMALL)
        await bench.world.load(SMALL)
        bench.world.unload(SMALL)
        assert await bench.residents() == [SMALL]
        assert not bench.backend.satisfies(SMALL, {})

        await bench.backend.load(SMALL, {})

        assert list(bench.world.instances) == [SMALL]
        assert bench.backend.satisfies(SMALL, {})


async def test_an_instance_that_bears_another_models_name_goes(bench):
    """A model that was loaded under the key of another would answer for it."""
    await bench.world.load(OTHER, identifier=SMALL)

    await bench.backend.load(SMALL, {})

    assert [(one.id, one.spec.key) for one in bench.world.instances.values()] == [(SMALL, SMALL)]
    assert set(await bench.said(SMALL)) == {SMALL}


async def test_a_model_loaded_meanwhile_is_taken_out(bench):
    """What others load while a load waits its turn would share the memory, and goes."""
    bench.world.knobs = replace(bench.world.knobs, load_s=WHILE_S)
    by_hand = asyncio.ensure_future(bench.world.load(OTHER))
    await bench.happened("load_start")

    await bench.backend.load(SMALL, {})

    assert list(bench.world.instances) == [SMALL]
    assert (await by_hand).why == "Model unloaded"


async def test_a_model_with_requests_out_is_not_taken_out():
    """A model that LM Studio loaded again under dmap's requests stays as long as they are out."""
    async with running(slow_s=WHILE_S, v0_lag_s=0) as bench:
        bench.backend.in_use = lambda model: model == OTHER and not bench.world.happened("generation_end")
        by_hand = asyncio.ensure_future(bench.world.load(OTHER))
        await bench.happened("load_start")
        await bench.backend.load(SMALL, {})
        assert sorted(bench.world.instances) == sorted([SMALL, OTHER])
        answer = asyncio.ensure_future(_drain(bench.world.generate(await by_hand, OTHER, 20)))

        await bench.backend.unload(OTHER)

        assert await answer == 20
        assert list(bench.world.instances) == [SMALL]


async def _drain(tokens) -> int:
    return len([token async for token in tokens])


async def test_a_resident_is_left_alone_by_the_load_of_another(bench):
    """Whether two models fit is the gate's decision: what is resident before a load stays."""
    await bench.backend.load(EMBED, {})
    await bench.backend.load(SMALL, {})

    assert await bench.residents() == sorted([EMBED, SMALL])


async def test_a_second_copy_that_came_during_the_load_goes(bench):
    """When others load the model at the same moment, one instance is left, and it bears the key."""
    bench.world.knobs = replace(bench.world.knobs, load_s=WHILE_S)
    ours = asyncio.ensure_future(bench.backend.load(SMALL, {}))
    await bench.happened("load_start")
    await bench.world.load(SMALL)

    await ours

    assert list(bench.world.instances) == [SMALL]


async def test_a_copy_that_came_while_room_was_made_is_seen():
    """After an unload dmap looks anew: a load by hand that began meanwhile is not stacked upon."""
    async with running(slow_s=WHILE_S) as bench:
        await bench.world.load(SMALL, {"context_length": 512})
        by_hand = []

        def in_use(_model):
            by_hand[:] = by_hand or [asyncio.ensure_future(bench.world.load(SMALL))]
            return False

        bench.backend.in_use = in_use
        await bench.backend.load(SMALL, {"context_length": 2048})

        assert [one["by"] for one in bench.world.stacks()] == ["hand"]
        assert list(bench.world.instances) == [SMALL]


async def test_a_load_that_only_v0_knows_of_is_not_stacked_upon():
    """A load by hand that began after v1 was asked, so that v0 alone says loading, is waited for."""
    async with running(listed_s=WHILE_S / 2, slow_s=WHILE_S) as bench:
        by_hand = asyncio.ensure_future(bench.world.load(SMALL))
        await bench.happened("load_start")

        await bench.backend.load(SMALL, {})

        assert [one["by"] for one in bench.world.happened("load_start")] == ["hand"]
        assert list(bench.world.instances.values()) == [await by_hand]


@pytest.mark.parametrize("slow_s", [0, WHILE_S])
async def test_a_load_right_behind_an_unload_is_not_stacked_upon(slow_s):
    """What somebody loads right after dmap's unload, under the same id, is adopted."""
    async with running(slow_s=slow_s, v0_lag_s=0) as bench:
        await bench.backend.load(SMALL, {"context_length": 2048})
        unload = bench.world.unload

        def replaced(id: str, by: str) -> None:
            unload(id, by)
            bench.by_hand = asyncio.ensure_future(bench.world.load(SMALL, {"context_length": 8192}))

        bench.world.unload = replaced
        loaded = await bench.backend.load(SMALL, {"context_length": 4096})

        assert loaded.context_length == 8192
        assert list(bench.world.instances.values()) == [await bench.by_hand]
        assert bench.world.stacks() == []


async def test_an_id_that_lm_studio_gives_is_taken(bench):
    """An instance that LM Studio itself names otherwise than its key is not loaded again."""
    load = bench.world.load
    bench.world.load = lambda spec, config, by: load(spec, config, by=by, identifier=f"{spec.variant}")

    await bench.backend.load(SMALL, {})
    await bench.backend.load(SMALL, {})

    assert list(bench.world.instances) == [f"{SMALL}@q4_k_m"]
    assert len(bench.asked(f"{V1}/load")) == 1
    assert set(await bench.said(SMALL)) == {SMALL}


# Context


async def test_another_context_than_asked_is_told(caplog):
    """LM Studio may fit a model to memory; log and `Loaded` tell what there is, and it is not tried again."""
    async with running(fit_context=3000) as bench:
        loaded = await bench.backend.load(SMALL, {"context_length": 8192})
        again = await bench.backend.load(SMALL, {"context_length": 8192})

        assert loaded.context_length == again.context_length == 3000
        assert len(bench.asked(f"{V1}/load")) == 1
        assert bench.backend.satisfies(SMALL, {"context_length": 8192})
        assert not bench.backend.satisfies(SMALL, {"context_length": 4096})
        line = f"context_mismatch backend=studio model={SMALL} asked=8192 echoed=3000 got=3000"
        assert lines(caplog, "context_mismatch") == [line]


# Readiness


async def test_a_model_that_loads_is_not_resident():
    """v1 lists it from the start; as long as v0 says loading it does not count."""
    async with running(slow_s=60, disagree_s=0.05) as bench:
        by_hand = asyncio.ensure_future(bench.world.load(SMALL))
        await bench.happened("load_start")
        seen = [await bench.residents() for _ in range(20)]

        assert seen == [[]] * 20
        assert not by_hand.done()
        bench.world.drop(bench.world.instances[SMALL], "seen enough")
        with pytest.raises(Refusal, match="seen enough"):
            await by_hand


async def test_a_resident_that_is_loaded_anew_by_hand_is_none_meanwhile():
    """The same id is another copy once v0 has gone back from loaded to loading."""
    async with running(slow_s=WHILE_S, v0_lag_s=0) as bench:
        await bench.backend.load(SMALL, {})
        assert await bench.residents() == [SMALL]
        bench.world.unload(SMALL)
        by_hand = asyncio.ensure_future(bench.world.load(SMALL))
        await bench.happened("load_start", 2)

        assert await bench.residents() == []
        await by_hand
        assert await bench.residents() == [SMALL]


async def test_v1_wins_a_long_disagreement():
    """When v0 goes on to say not-loaded, v1 is believed after a while, and not before; then it stays so."""
    async with running(v0_lag_s=60, disagree_s=0.1) as bench:
        await bench.world.load(SMALL)
        began = bench.world.now()
        assert await bench.residents() == []

        while await bench.residents() == []:
            await asyncio.sleep(0.005)

        assert 0.1 <= bench.world.now() - began < LIMIT_S
        assert [await bench.residents() for _ in range(3)] == [[SMALL]] * 3


async def test_a_resident_stays_one_when_v0_lags():
    """What our own load proved is ready, although v0 does not know yet."""
    async with running(v0_lag_s=60, disagree_s=60) as bench:
        await bench.backend.load(SMALL, {})

        assert await bench.residents() == [SMALL]


async def test_v1_wins_where_v0_is_gone():
    """Without v0, as one day it will be, what v1 lists is resident."""
    async with running(v0=False, disagree_s=60) as bench:
        await bench.world.load(SMALL)

        assert await bench.residents() == [SMALL]


async def test_a_page_of_html_is_asked_again():
    """The HTML that v0 answers when a load begins is no failure."""
    async with running(v0_lag_s=0) as bench:
        await bench.world.load(SMALL)
        assert bench.world.html_due

        assert await bench.residents() == [SMALL]


# Loads that fail


async def test_a_refused_load_tells_the_servers_reason():
    """A 500 `model_load_failed` is told in LM Studio's own words."""
    async with running() as bench:
        await bench.backend.load(BIG, {})

        with pytest.raises(LoadFailed, match="stopped due to insufficient system resources"):
            await bench.backend.load(VAST, {})

        assert await bench.residents() == [BIG]


async def test_a_load_that_crashes_is_a_failure():
    """So is an engine that dies while it loads."""
    async with running(guardrails=False, slow_s=0.05) as bench:
        await bench.backend.load(BIG, {})

        with pytest.raises(LoadFailed, match="Exit code: null"):
            await bench.backend.load(VAST, {})


async def test_a_load_that_leaves_nothing_behind_is_tried_twice(bench):
    """A model whose load answers 200, and which is not listed then, is not loaded on and on; that is told."""
    load = bench.world.load

    async def lost(spec, config, by):
        instance = await load(spec, config, by=by)
        bench.world.drop(instance, "lost")
        return instance

    bench.world.load = lost
    with pytest.raises(LoadFailed, match="LM Studio says that it is loaded, but does not list it"):
        await bench.backend.load(SMALL, {})

    assert len(bench.asked(f"{V1}/load")) == 2


async def test_a_canceled_load_is_tried_again(caplog):
    """A load that another app's request displaced says nothing of the model, and is begun again."""
    async with running(slow_s=WHILE_S) as bench:
        ours = asyncio.ensure_future(bench.backend.load(SMALL, {}))
        await bench.happened("load_start")
        await bench.world.find(OTHER)

        await ours

        assert "Operation canceled" in lines(caplog, "load_repeated")[0]
        assert SMALL in await bench.residents()


async def test_a_load_that_takes_too_long_is_given_up():
    """`load_s` bounds a load; the next one waits for it instead of stacking a second."""
    async with running(slow_s=2, load_s=0.3, v0_lag_s=0) as bench:
        with pytest.raises(LoadFailed, match="load_s is 0.3"):
            await bench.backend.load(SMALL, {})
        with pytest.raises(BackendDown, match="has been loading"):
            await bench.backend.load(SMALL, {})
        await bench.happened("load_end")

        await bench.backend.load(SMALL, {})

        assert bench.world.stacks() == []


async def test_a_cancelled_load_is_joined_by_the_next():
    """LM Studio loads on when its client leaves: the gate is told, and the next load waits for that one."""
    async with running(slow_s=WHILE_S) as bench:
        load = asyncio.ensure_future(bench.backend.load(SMALL, {}))
        await bench.happened("load_start")
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        assert bench.changes == 1

        await bench.backend.load(SMALL, {})

        assert bench.changes == 2
        assert len(bench.asked(f"{V1}/load")) == 1
        assert bench.world.happened("load_abandoned") == []


async def test_only_loads_of_others_are_arriving():
    """A load of ours is not, though its client has left; one of somebody else is until it ends."""
    async with running(slow_s=WHILE_S) as bench:
        load = asyncio.ensure_future(bench.backend.load(SMALL, {}))
        await bench.happened("load_start")
        load.cancel()
        hand = asyncio.ensure_future(bench.world.load(OTHER))
        await bench.happened("load_start", 2)

        during = await bench.arriving()
        await hand

        assert (during, await bench.arriving()) == ([OTHER], [])


async def test_a_load_waits_for_the_cancelled_one_of_another_model():
    """Two loads never run at once, also when nobody waits for the first."""
    async with running(slow_s=WHILE_S) as bench:
        load = asyncio.ensure_future(bench.backend.load(SMALL, {}))
        await bench.happened("load_start")
        load.cancel()

        await bench.backend.load(OTHER, {})

        order = [(e["event"], e["model"]) for e in bench.world.events if e["event"].startswith("load_")]
        assert order == [
            ("load_start", SMALL),
            ("load_end", SMALL),
            ("load_start", OTHER),
            ("load_end", OTHER),
        ]


async def test_a_load_cancelled_before_it_began_asks_nothing():
    """Who leaves while waiting for the turn leaves nothing behind."""
    async with running(slow_s=WHILE_S) as bench:
        first = asyncio.ensure_future(bench.backend.load(SMALL, {}))
        second = asyncio.ensure_future(bench.backend.load(OTHER, {}))
        await bench.happened("load_start")
        second.cancel()
        await first

        assert [body["model"] for body in bench.asked(f"{V1}/load")] == [SMALL]


async def test_a_copy_that_comes_during_an_unload_goes_too():
    """When others load the model while it is being unloaded, unload returns when that copy is gone too."""
    async with running(slow_s=WHILE_S, v0_lag_s=0) as bench:
        await bench.backend.load(SMALL, {})
        unload = bench.world.unload
        by_hand = []

        def stacking(id: str, by: str) -> None:
            if not by_hand:
                by_hand.append(asyncio.ensure_future(bench.world.load(SMALL)))
            unload(id, by)

        bench.world.unload = stacking
        await bench.backend.unload(SMALL)

        assert bench.world.instances == {}
        await by_hand[0]


async def test_lists_that_lag_behind_an_unload_hold_no_switch_up():
    """What the lists still name after its unload is waited for: nobody loads it, nor is it in the way."""
    async with running(gone_lag_s=WHILE_S, disagree_s=LIMIT_S, v0_lag_s=0) as bench:
        await bench.backend.load(SMALL, {})
        arriving = set[str]()
        bench.backend.report = lambda found: arriving.update(one.id for one in found if one.arriving)
        await bench.backend.unload(SMALL)
        assert await bench.residents() == []

        await bench.backend.load(OTHER, {})

        assert (list(bench.world.instances), arriving) == ([OTHER], set())
        assert bench.asked(f"{V1}/unload") == [{"instance_id": SMALL}]


async def test_lists_that_lag_behind_an_unload_make_no_copy():
    """A model that is loaded anew for more context is loaded once, under its key, when the lists agree."""
    async with running(gone_lag_s=WHILE_S, disagree_s=LIMIT_S, v0_lag_s=0) as bench:
        await bench.backend.load(SMALL, {"context_length": 2048})

        await bench.backend.load(SMALL, {"context_length": 4096})

        assert list(bench.world.instances) == [SMALL]
        assert [one["context_length"] for one in bench.world.happened("load_start")] == [2048, 4096]
        assert bench.asked(f"{V1}/unload") == [{"instance_id": SMALL}]


async def test_an_unload_that_never_succeeds_is_down(caplog):
    """A server that refuses every unload is told, with its reason in the log."""
    async with running(v0_lag_s=0) as bench:
        await bench.backend.load(SMALL, {})
        bench.world.unload = _refuse

        with pytest.raises(BackendDown, match="asked 5 times to unload"):
            await bench.backend.unload(SMALL)

        assert "it sits tight" in lines(caplog, "unload_refused")[0]


def _refuse(id: str, by: str) -> None:
    raise Refusal("busy", "it sits tight")


async def test_unload_waits_for_a_load_under_way():
    """A load cannot be stopped, so to unload is to wait for its end first."""
    async with running(slow_s=WHILE_S) as bench:
        by_hand = asyncio.ensure_future(bench.world.load(SMALL))
        await bench.happened("load_start")

        await bench.backend.unload(SMALL)

        assert bench.world.instances == {}
        await by_hand


# Just before a request


async def test_what_others_unloaded_is_found_before_a_request(bench):
    """After `confirm` there is no target for a model that somebody has unloaded, though nobody watches."""
    await bench.backend.load(SMALL, {})
    bench.world.unload(SMALL)
    assert bench.backend.target(SMALL, CHAT)

    await bench.backend.confirm()

    with pytest.raises(BackendDown, match="not loaded"):
        bench.backend.target(SMALL, CHAT)


async def test_what_others_load_anew_is_found_before_a_request():
    """A model that somebody loads anew is not taken for the one before, though v0 fails just then."""
    async with running(v0_lags=False, slow_s=WHILE_S) as bench:
        await bench.backend.load(SMALL, {})
        await bench.residents()  # by then both lists have said so
        bench.world.unload(SMALL)
        loading = asyncio.create_task(bench.world.load(SMALL))
        await bench.happened("load_start", 2)
        bench.world.html_due = True

        await bench.backend.confirm()

        with pytest.raises(BackendDown, match="not loaded"):
            bench.backend.target(SMALL, CHAT)
        await loading


async def test_who_confirms_at_once_shares_a_look(bench):
    """Many requests at once cost two looks at most: one for the first, one for who came meanwhile."""
    await bench.backend.load(SMALL, {})
    seen = len(bench.asked(V1))

    await asyncio.gather(*(bench.backend.confirm() for _ in range(20)))

    assert 1 <= len(bench.asked(V1)) - seen <= 2
    assert bench.backend.target(SMALL, CHAT)


async def test_a_server_that_tells_nothing_stops_nobody(bench):
    """A look without an answer proves nothing: the request itself will find out."""
    await bench.backend.load(SMALL, {})
    await bench.lm.kill()

    await bench.backend.confirm()

    assert bench.backend.target(SMALL, CHAT)


# Servers that say no, or nothing


@pytest.mark.parametrize("given", [None, "sk-lm-wrongone:12345678901234567890"])
async def test_a_token_that_is_not_good_enough_is_told(given):
    """A 401 names the key of the configuration, and never the token."""
    async with running(api_token=TOKEN, api_key=given) as bench:
        with pytest.raises(BackendDown, match=r"backends\.studio\.api_key") as down:
            await bench.backend.models()

        assert "sk-lm" not in str(down.value)


async def test_the_token_goes_with_every_request():
    """Lists, loads and requests bear the token."""
    async with running(api_token=TOKEN, api_key=TOKEN) as bench:
        await bench.backend.load(SMALL, {})

        assert set(await bench.said(SMALL)) == {SMALL}
        assert dict(bench.backend.target(SMALL, CHAT).headers) == {"Authorization": f"Bearer {TOKEN}"}


async def test_an_older_server_is_down(caplog):
    """A server without the native API cannot be used; its owner is told why, what to do, and when it can."""
    async with running(native=False, v0_lag_s=0) as bench:
        bench.backend.start()
        await bench.world.load(SMALL)

        for ask in (bench.backend.models(), bench.backend.load(SMALL, {}), bench.backend.unload(SMALL)):
            with pytest.raises(
                BackendDown, match=r"came with 0\.4\.0; update it, or give this backend `kind"
            ):
                await ask
        bench.world.traps = replace(bench.world.traps, native=True)

        assert await until(lambda: bench.backend.satisfies(SMALL, {})) is None


async def test_no_lists_at_all_is_down():
    """A server that has neither list is no LM Studio that dmap can use."""
    async with running(native=False, v0=False) as bench:
        with pytest.raises(BackendDown, match="does not list its models: Unexpected endpoint"):
            await bench.backend.models()


async def test_a_dead_server_is_down(bench):
    """Connection refused is `BackendDown` for every question."""
    await bench.lm.kill()

    words = r"^the backend 'studio' \(LM Studio\) does not answer: connection refused$"
    for ask in (bench.backend.models(), bench.backend.load(SMALL, {}), bench.backend.unload(SMALL)):
        with pytest.raises(BackendDown, match=words):
            await ask


async def test_a_server_that_dies_during_a_load_is_down():
    """A connection that breaks is no refusal of the model; after the restart a load is a new one."""
    async with running(slow_s=WHILE_S) as bench:
        load = asyncio.ensure_future(bench.backend.load(SMALL, {}))
        await bench.happened("load_start")
        await bench.lm.kill()
        with pytest.raises(BackendDown):
            await load
        await bench.lm.start()

        await bench.backend.load(SMALL, {})

        assert await bench.residents() == [SMALL]


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        ("500 Oops", b"<html>no</html>", "status 500 and no JSON"),
        ("502 Bad Gateway", b"upstream is away", "upstream is away"),
        ("200 OK", b"[]", r"status 200, \[\]"),
        ("200 OK", b"[" * 100_000, r"does not list its models: \[\[\["),
        ("200 OK", b'{"error": "it hurts"}', "it hurts"),
        ("200 OK", b'{"models": 7}', "no list of models"),
        ("oops", b"", "does not answer: what it says is not HTTP"),
    ],
)
async def test_an_answer_that_is_none_is_down(status, body, words):
    """HTML, other JSON and errors with any status are told in a few words."""

    async def script(exchange):
        await exchange.end(answer(body, status=status))

    async with odd_server(script) as backend:
        with pytest.raises(BackendDown, match=words):
            await backend.models()


@asynccontextmanager
async def odd_server(script) -> AsyncGenerator[LMStudioBackend]:
    """Run a backend before a server that answers everything by *script*."""

    class Odd(FakeBackend):
        async def _one(self, reader, writer):
            head = await reader.readuntil(b"\r\n\r\n")
            body = answer(b'{"error": "Unexpected endpoint or method. (GET /api/v0/models)"}')
            if b"/api/v0" in head:
                writer.write(body)
                return False
            await script(Exchange(head.removesuffix(b"\r\n\r\n"), b"", reader, writer, reader.gone))
            return False

    async with asyncio.timeout(LIMIT_S), fake_backend():
        server = Odd()
        await server.listen()
        backend = LMStudioBackend("studio", section(server.url))
        try:
            yield backend
        finally:
            await backend.close()
            server.close()


async def test_no_connection_is_kept(bench):
    """LM Studio closes idle connections after 5 s, so none is left idle."""
    await bench.backend.load(SMALL, {})

    runner = bench.lm._runner
    await until(lambda: not runner.server.connections)


# Names


async def test_a_model_has_many_names(bench):
    """Key, instance id, variant and any letter case are one model."""
    await bench.world.load(SMALL)
    await bench.world.load(SMALL)
    await bench.backend.models()

    spellings = [SMALL, SMALL.upper(), f"{SMALL}:2", f"{SMALL}@q4_k_m", f"{SMALL}@Q8_0"]
    assert {bench.backend.canonical(name) for name in spellings} == {SMALL}
    assert bench.backend.canonical("gpt-4o-mini") is None


async def test_load_and_unload_take_any_name(bench):
    """A load by another spelling is a load of the model, and makes no second one."""
    await bench.backend.load(f"{SMALL.upper()}@q4_k_m", {})
    await bench.backend.load(SMALL, {})

    assert list(bench.world.instances) == [SMALL]
    await bench.backend.unload(SMALL.title())
    assert bench.world.instances == {}


async def test_models_tells_what_is_known(bench):
    """Sizes are those on disk; parallel is an instance's, 4 where LM Studio does not say, else unknown."""
    await bench.backend.load(SMALL, {"context_length": 2048})
    models = {model.id: model for model in await bench.backend.models()}

    assert len(models) == 7
    assert (models[SMALL].size_bytes, models[SMALL].context_length, models[SMALL].parallel) == (
        10**9,
        2048,
        4,
    )
    other = models[OTHER]
    assert (other.resident, other.context_length, other.parallel) == (False, None, None)
    assert (models[EMBED].embedding, models[EMBED].parallel) == (True, None)


def test_lists_are_read_whatever_they_lack():
    """Missing, additional and odd fields read as unknown; only an entry without a key is passed over."""
    mlx = {"id": "a", "config": {"context_length": 8192, "parallel": 2, "reasoning_budget_message": ""}}
    a, b, c = read_v1(
        [
            {"key": "a", "type": "llm", "loaded_instances": [mlx, {"config": {}}, "b"], "variants": None},
            {
                "key": "b",
                "loaded_instances": [{"id": "b", "config": None}],
                "size_bytes": "1",
                "quantization": None,
            },
            {"key": "c", "type": "embedding", "loaded_instances": [{"id": "c"}], "selected_variant": "c@f16"},
            {"display_name": "d"},
            {"key": "e" * 513},
        ]
    )

    assert [(one.id, one.context_length, one.parallel) for one in a.instances] == [("a", 8192, 2)]
    assert [(one.context_length, one.parallel) for one in b.instances] == [(None, 4)]
    assert (b.info.size_bytes, c.info.embedding, c.info.names) == (None, True, ("c@f16",))
    assert c.instances[0].parallel is None


# The watch


@asynccontextmanager
async def watched(**options) -> AsyncGenerator[Bench]:
    """Run a backend that watches, and has had its first look."""
    async with running(**options) as bench:
        bench.backend.start()
        await until(lambda: len(bench.asked(V1)) >= 2)
        yield bench


async def test_models_loaded_and_unloaded_by_hand_are_noticed(caplog):
    """Each change that is not dmap's is told to the gate and to the log, in one line."""
    async with watched() as bench:
        await bench.world.load(SMALL)
        await until(lambda: lines(caplog, "model_appeared"))
        assert bench.changes == 1
        assert bench.backend.target(SMALL, CHAT)

        bench.world.unload(SMALL)
        await until(lambda: lines(caplog, "model_vanished"))

        assert bench.changes == 2
        told = f'backend=studio model={SMALL} by="not dmap"'
        assert lines(caplog, "model_appeared") == [f"model_appeared {told}"]
        assert lines(caplog, "model_vanished") == [f"model_vanished {told}"]


async def test_what_dmap_does_is_not_told(caplog):
    """The watch knows dmap's own loads and unloads."""
    async with watched() as bench:
        for _ in range(5):
            await bench.backend.load(SMALL, {})
            seen = len(bench.asked(V1))
            await until(lambda: len(bench.asked(V1)) > seen + 2)  # noqa: B023
            await bench.backend.unload(SMALL)

        assert bench.changes == 0
        assert not lines(caplog, "model_appeared") + lines(caplog, "model_vanished")


async def test_a_second_instance_by_hand_is_told_once(caplog):
    """A copy that somebody loads beside dmap's is one line, which says when dmap takes it out; so it does."""
    async with watched() as bench:
        await bench.backend.load(SMALL, {})
        await bench.world.load(SMALL)
        await until(lambda: lines(caplog, "model_doubled"))
        seen = len(bench.asked(V1))
        await until(lambda: len(bench.asked(V1)) > seen + 2)

        assert lines(caplog, "model_doubled") == [
            f'model_doubled backend=studio model={SMALL} instance={SMALL}:2 by="not dmap" '
            'dmap="takes it out when it next loads or unloads this model"'
        ]
        await bench.backend.unload(SMALL)
        assert bench.world.instances == {}


async def test_a_restarted_server_is_noticed(caplog):
    """When the server goes and comes, the gate looks again, and what vanished with it is told."""
    async with watched() as bench:
        await bench.backend.load(SMALL, {})
        await bench.lm.kill()
        await until(lambda: bench.changes == 1)
        await bench.lm.start()
        await until(lambda: lines(caplog, "model_vanished"))

        assert bench.changes == 3


async def test_what_a_look_finds_is_told(bench):
    """Each look is told, with what a resident got; one that gets no answer is told as that."""
    told = []
    bench.backend.report = told.append

    await bench.backend.load(SMALL, {"context_length": 2048})
    await bench.lm.kill()
    with pytest.raises(BackendDown) as down:
        await bench.backend.models()

    *_, loaded, gone = told
    assert [(one.id, one.context_length) for one in loaded if one.resident] == [(SMALL, 2048)]
    assert gone is down.value


async def test_whoever_finds_the_server_down_wakes_the_watch():
    """A server that anybody finds down is watched from then on, though the watch's next look is far off."""
    async with running(watch_s=3600) as bench:
        bench.backend.start()
        await until(lambda: bench.asked("/v1/models"))
        await bench.lm.kill()
        with pytest.raises(BackendDown):
            await bench.backend.models()
        await until(lambda: bench.changes == 1)

        await bench.lm.start()

        await until(lambda: bench.changes == 2)


async def test_a_watch_begins_before_its_server():
    """A server that is down at the start is watched until it comes."""
    async with running() as bench:
        await bench.lm.kill()
        bench.backend.start()
        await until(lambda: bench.changes == 1)
        await bench.lm.start()

        await until(lambda: bench.changes == 2)


async def test_jit_is_warned_of_once(caplog):
    """A server that lists models which are not loaded loads them on demand."""
    async with watched() as bench:
        seen = len(bench.asked(V1))
        await until(lambda: len(bench.asked(V1)) > seen + 3)

        assert len(lines(caplog, "jit_is_on")) == 1
        assert len(bench.asked("/v1/models")) == 1


async def test_no_jit_no_warning(caplog):
    """A server that lists only what is loaded is as it should be."""
    async with running(jit=False) as bench:
        await bench.backend.load(SMALL, {})
        bench.backend.start()
        await until(lambda: bench.asked("/v1/models"))
        seen = len(bench.asked(V1))
        await until(lambda: len(bench.asked(V1)) > seen + 1)

        assert lines(caplog, "jit_is_on") == []


# Under a gate


async def test_a_gate_switches_without_a_trap(caplog):
    """With every trap on and one model at a time nothing is cut, stacked or answered by a wrong model."""
    async with running(slow_s=0.01) as bench, gated(bench) as gate:
        models = [SMALL, OTHER, BIG, VAST] * 4
        answers = await asyncio.gather(*(converse(bench, gate, f"c{n}", m) for n, m in enumerate(models)))

        assert [set(one) for one in answers] == [{model} for model in models]
        assert bench.world.cuts() == bench.world.stacks() == bench.world.wrong() == []
        assert bench.world.most() == 1
        assert lines(caplog, "model_appeared") + lines(caplog, "model_vanished") == []


async def test_a_gate_switches_while_others_meddle():
    """Hands that load and unload what they like, second copies too, only delay the answers."""
    async with running(slow_s=0.01) as bench, gated(bench) as gate:
        models = [SMALL, OTHER] * 6
        meddler = asyncio.ensure_future(meddle(bench))
        answers = await asyncio.gather(*(converse(bench, gate, f"c{n}", m) for n, m in enumerate(models)))
        meddler.cancel()

        assert [set(one) for one in answers] == [{model} for model in models]
        assert bench.world.wrong() == []
        assert [cut for cut in bench.world.cuts() if cut["by"] == "rest"] == []
        await bench.backend.load(SMALL, {})
        assert [one.id for one in bench.world.instances.values() if one.spec.key == SMALL] == [SMALL]


@asynccontextmanager
async def gated(bench: Bench) -> AsyncGenerator[Gate]:
    """Run a gate over the backend, for one model at a time, that is told of changes as in production."""
    section = Device(cooldown_s=0, backend_gone_s=1, patience_s=0.05, residency=0, wait_s=LIMIT_S)
    gate = Gate("gpu0", section, {"studio": bench.backend})
    await gate.start()
    bench.backend.start()
    try:
        yield gate
    finally:
        await gate.close()


async def converse(bench: Bench, gate: Gate, client: str, model: str) -> list[str]:
    """Ask five times, in a row."""
    route = Route(ModelKey("studio", model), device="gpu0", load={"context_length": 2048})
    return [word for _ in range(5) for word in await one_turn(bench, gate, client, route)]


async def one_turn(bench: Bench, gate: Gate, client: str, route: Route) -> list[str]:
    """Ask until there is an answer, as a client does whose request met a model that others took out."""
    for _ in range(100):
        with contextlib.suppress(BackendDown, LoadFailed, KeyError):
            async with gate.lease(route, client):
                return await bench.said(route.key.model)
        await gate.recheck()
        await asyncio.sleep(0.01)
    raise AssertionError(f"{route.key} was never answered")


async def meddle(bench: Bench) -> None:
    """Load and unload by hand what is not being used just now."""
    for turn in range(1000):
        idle = [one for one in bench.world.instances.values() if one.answers and not one.running]
        for instance in idle[: turn % 2]:
            bench.world.unload(instance.id)
        with contextlib.suppress(Exception):
            await bench.world.load((SMALL, OTHER, EMBED)[turn % 3], {"context_length": 2048})
        await asyncio.sleep(0.03)
