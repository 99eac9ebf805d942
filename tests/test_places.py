"""One name at several places: which one is asked, which one next, and two servers of which one is killed."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from dmap.web.reload import reload
from tests.conftest import Proxy, config_of
from tests.fakes import DONE, END, HERE_S, SSE, FakeBackend, chat, chunk, delta, fake_backend, soon
from tests.lmstudio_emulator import Knobs, emulator
from tests.twin_soak import MODELS, twins

SERVED_S = 10.0
"""Far from the 30 s after which a dead server is started again; `bench.soak_places` has the bar of 2 s."""
BACKENDS = """
backends:
  one: {{kind: openai, url: '{}', parallel: 1, queue: 3}}
  two: {{kind: openai, url: '{}', parallel: 1, queue: 3}}
"""
CHAT = "/v1/chat/completions"
SAID = (SSE, chunk(delta("hi")), chunk(DONE), END)


class Pair:
    """A proxy in front of two servers that have `m`, of which each is answered by hand."""

    def __init__(
        self, one: FakeBackend, two: FakeBackend, proxy: Proxy, session: aiohttp.ClientSession
    ) -> None:
        self.one, self.two, self.url, self._proxy = one, two, proxy.url, proxy.proxy
        self._session = session

    def ask(self, path: str = CHAT, **fields: object) -> "asyncio.Task[tuple[int, str]]":
        """Ask for `m`; return what the answer will be."""

        async def exchange() -> tuple[int, str]:
            async with self._session.post(self.url + path, json=chat(**fields)) as answer:
                return answer.status, await answer.text()

        return asyncio.create_task(exchange())

    async def asked(self, number: int) -> "asyncio.Task[tuple[int, str]]":
        """Ask with *number* as the seed, after so many others; return when it has its place."""
        answer = self.ask(seed=number)
        await soon(lambda: self.under_way() > number, HERE_S)
        return answer

    def under_way(self) -> int:
        """Count the requests that wait or are being answered."""
        views = [gate.snapshot() for gate in self._proxy.gates.values()]
        return sum(view.leases + view.waiting for view in views)

    def waiting(self) -> int:
        """Count the requests that wait at the first server."""
        return self._proxy.passages["one"].snapshot().waiting

    def oldest_wait_s(self) -> float:
        """Return for how long somebody has waited at the second server."""
        return self._proxy.passages["two"].snapshot().oldest_wait_s

    def finished(self) -> list[Mapping[str, Any]]:
        """Return what was told of the requests that were answered."""
        return [each.fields for each in self._proxy.bus.since(0, 1000)[0] if each.type == "request.finished"]

    def leave_only(self, backend: str) -> None:
        """Reload a file that has `m` on that *backend* alone."""
        config = config_of(
            f"{BACKENDS.format(self.one.url, self.two.url)}\nmodels: {{m: {{backend: {backend}}}}}"
        )
        reload(self._proxy, config.model_copy(update={"listen": self._proxy.config.listen}))

    async def first(self) -> tuple[FakeBackend, FakeBackend]:
        """Wait for one request; return where it is, and the other one."""
        await soon(lambda: bool(self.one.requests or self.two.requests), HERE_S)
        return (self.one, self.two) if self.one.requests else (self.two, self.one)


@pytest.fixture
async def pair(start) -> AsyncGenerator[Pair]:
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(fake_backend()) for _ in range(2)]
        one.script, two.script = one.by_hand, two.by_hand
        proxy = await start(BACKENDS.format(one.url, two.url))
        await proxy.sees(2)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield Pair(one, two, proxy, session)
        one.cut_all()
        two.cut_all()
        await proxy.settled()


class TestNext:
    async def test_the_second_request_goes_to_the_free_one(self, pair):
        """A place where an answer begins at once goes before one where one waits."""
        first, second = pair.ask(), pair.ask()

        for each in [await pair.one.next(), await pair.two.next()]:
            await each.end(*SAID)

        assert [(await each)[0] for each in (first, second)] == [200, 200]

    async def test_a_server_that_is_gone_costs_nothing(self, pair):
        """What could not be sent goes to the other one, and so does all that comes after."""
        await pair.one.shut()

        for _ in range(3):
            asked = pair.ask()
            await (await pair.two.next()).end(*SAID)
            assert (await asked)[0] == 200

    async def test_an_answer_that_never_began_is_asked_elsewhere(self, pair):
        """Nobody got a byte of it, so a second one harms nobody."""
        asked = pair.ask()
        where, other = await pair.first()
        (await where.next()).cut()

        await (await other.next()).end(*SAID)

        assert (await asked)[0] == 200

    async def test_it_is_asked_elsewhere_once(self, pair):
        """A request that ends whatever server gets it ends two of them, and no more."""
        asked = pair.ask()
        where, other = await pair.first()
        (await where.next()).cut()
        (await other.next()).cut()

        status, text = await asked

        assert (status, "backend_broke" in text) == (502, True)

    async def test_it_is_asked_elsewhere_once_of_three(self, start):
        """Also where a third server has not been asked yet."""
        async with AsyncExitStack() as stack:
            servers = [await stack.enter_async_context(fake_backend()) for _ in range(3)]
            for server in servers:
                server.script = server.by_hand
            urls = (f"s{at}: {{kind: openai, url: '{server.url}'}}" for at, server in enumerate(servers))
            proxy = await start(f"backends: {{{', '.join(urls)}}}")
            await proxy.sees(3)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            asked = asyncio.create_task(session.post(proxy.url + CHAT, json=chat()))
            for count in (1, 2):
                await soon(lambda count=count: sum(len(each.requests) for each in servers) == count, HERE_S)
                for server in servers:
                    server.cut_all()

            async with asyncio.timeout(HERE_S), await asked as answer:
                assert answer.status == 502
            assert sorted(len(each.requests) for each in servers) == [0, 1, 1]

    async def test_none_moves_to_where_its_model_is_no_more(self, pair):
        """The file may have taken it away while the request waited."""
        asked = [await pair.asked(number) for number in range(2)]
        dying, held = await pair.one.next(), await pair.two.next()
        pair.leave_only("one")

        dying.cut()
        first, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=HERE_S)
        await held.end(*SAID)

        assert [each.result()[0] for each in first] == [502]
        assert sorted([(await each)[0] for each in asked]) == [200, 502]

    async def test_who_moves_keeps_its_age(self, pair):
        """At the other server it goes before those that came later, also if it had been sent already."""
        asked = [await pair.asked(number) for number in range(4)]
        held, dying = await pair.one.next(), await pair.two.next()
        await pair.two.shut()
        dying.cut()
        await soon(lambda: pair.waiting() == 3, HERE_S)
        await held.end(*SAID)

        served = []
        for _ in range(3):
            exchange = await pair.one.next()
            served.append(json.loads(exchange.body)["seed"])
            await exchange.end(*SAID)

        assert served == sorted(served)
        assert [(await each)[0] for each in asked] == [200] * 4

    async def test_who_moves_has_waited_all_the_time(self, pair):
        """What is told of its wait begins where it waited first."""
        asked = [await pair.asked(number) for number in range(4)]
        held, dying = await pair.one.next(), await pair.two.next()
        await soon(lambda: pair.oldest_wait_s() > 0.2, HERE_S)
        await pair.two.shut()
        dying.cut()
        await soon(lambda: pair.waiting() == 3, HERE_S)
        await held.end(*SAID)
        for _ in range(3):
            await (await pair.one.next()).end(*SAID)

        assert [(await each)[0] for each in asked] == [200] * 4
        assert max(each["queue_s"] for each in pair.finished() if "moved" in each) > 0.2

    async def test_what_acts_is_asked_nowhere_else(self, pair):
        """Its server may have acted by then."""
        asked = pair.ask(store=True)
        where, other = await pair.first()
        (await where.next()).cut()

        assert (await asked)[0] == 502
        assert other.requests == []

    async def test_an_answer_that_began_is_not_asked_elsewhere(self, pair):
        """Its client has the beginning of it, and is told how it ended."""
        asked = pair.ask(stream=True)
        where, other = await pair.first()
        exchange = await where.next()
        await exchange.write(SSE, chunk(delta("hi")))
        exchange.close()

        with pytest.raises(aiohttp.ClientPayloadError):
            await asked
        assert other.requests == []

    async def test_an_address_is_one_place(self, pair):
        """Whoever names the backend gets that one or an error."""
        await pair.one.shut()

        status, _ = await pair.ask(model="one/m")

        assert status == 503
        assert pair.two.requests == []

    async def test_a_full_queue_is_passed_over(self, pair):
        """Nobody is refused before all are full: here with one answered and three waiting at each."""
        asked = [await pair.asked(number) for number in range(8)]
        exchanges = [await pair.one.next(), await pair.two.next()]

        status, _ = await pair.ask()

        assert status == 429
        pair.one.script, pair.two.script = pair.one.finish, pair.two.finish
        for exchange in exchanges:
            await exchange.end(*SAID)
        assert [(await each)[0] for each in asked] == [200] * 8

    async def test_who_waits_at_a_server_that_dies_goes_elsewhere_at_once(self, pair):
        """Not when its turn would come: the one before it is at work for as long as it likes."""
        asked = [await pair.asked(number) for number in range(4)]
        held, dying = await pair.one.next(), await pair.two.next()

        await pair.two.shut()
        dying.cut()

        await soon(lambda: pair.waiting() == 3, HERE_S)
        await held.end(*SAID)
        for _ in range(3):
            await (await pair.one.next()).end(*SAID)

        assert sorted([(await each)[0] for each in asked]) == [200] * 4


class TestOrders:
    async def test_a_load_is_at_one_place_and_an_unload_at_all(self, start, tmp_path):
        """The copy is loaded that is there soonest; an unload takes out every copy there is."""
        knobs = Knobs(load_s=0.01)
        async with (
            emulator(knobs=knobs) as one,
            emulator(knobs=knobs) as two,
            aiohttp.ClientSession() as session,
        ):
            proxy = await start(
                f"""
                devices: {{gpu0: {{cooldown_s: 0}}, gpu1: {{cooldown_s: 0}}}}
                backends:
                  one: {{kind: lmstudio, url: '{one.url}', device: gpu0}}
                  two: {{kind: lmstudio, url: '{two.url}', device: gpu1}}
                state: {tmp_path}/state.json
                """
            )
            await proxy.sees(2)

            told = []
            proxy.proxy.bus.listen(lambda event: told.append(event.fields["backend"]), "model.loaded")

            async def order(verb: str, model: str) -> list[int]:
                body = {"model_key": model, "activate": False}
                async with session.post(f"{proxy.url}/admin/models/{verb}", json=body) as answer:
                    assert answer.status == 200, await answer.text()
                return [len(gate.residents) for gate in proxy.proxy.devices.values()]

            assert sorted(await order("load", MODELS[0])) == [0, 1]
            assert sorted(await order("load", MODELS[0])) == [0, 1]
            assert await order("load", f"one/{MODELS[0]}") in ([1, 0], [1, 1])
            assert await order("load", f"two/{MODELS[0]}") == [1, 1]
            assert await order("unload", MODELS[0]) == [0, 0]
            assert await order("load", f"two/{MODELS[0]}") == [0, 1]
            assert await order("load", MODELS[0]) == [0, 1]
            assert told[-2:] == ["two", "two"]


async def test_one_of_two_servers_is_killed(tmp_path):
    """Under load, twice: nothing is lost that had no answer yet, and the other one serves all at once."""
    async with twins(tmp_path) as stage:
        await stage.answered(20)
        served_s = [await stage.kill(0, 1.0), await stage.kill(0, 0.0)]
        await stage.answered(40)
        await soon(lambda: min(stage.used) > 10, HERE_S)

    assert stage.tally.bad == []
    assert stage.lost == []
    assert max(served_s) < SERVED_S
