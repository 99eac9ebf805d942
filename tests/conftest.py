"""The proxy as it runs in production, in front of a fake backend or of real engines."""

import asyncio
import gc
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import settings

from dmap.config import Config, parse
from dmap.daemon import RunningDaemon, listening
from dmap.inventory import START_S
from tests.fakes import HERE_S, FakeBackend, RawClient, fake_backend, soon
from tests.loops import Loop, keep_stderr
from tests.models import make
from tests.once import made_once
from tests.process import Process

Connect = Callable[[Process], Awaitable[RawClient]]
LONGEST_MS = 1000
"""The longest `redis.timeout_ms` of a file: a test that gives it needs an answer, however late."""
MODELS = ("tiny-sea", "tiny-kitchen", "tiny-brief", "tiny-embed", "slow")


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on the loop that production runs on."""
    return {"uvloop": Loop}


def pytest_configure() -> None:
    keep_stderr()
    settings.register_profile("dmap", deadline=None, derandomize=True, database=None)
    settings.load_profile("dmap")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run two workers per core, for most tests wait for another process; a worker takes up to 0.5 GiB."""
    return min(2 * len(os.sched_getaffinity(0)), 12)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where `DMAP_TEST_ALL` is set, a test that is skipped has failed: nothing is missing there."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("DMAP_TEST_ALL"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which DMAP_TEST_ALL forbids: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of small real models, once for all workers."""
    return made_once(tmp_path_factory, "models", lambda folder: [make(name, folder) for name in MODELS])


@pytest.fixture
def uncollected() -> Generator[Callable[..., list[object]]]:
    """Find what of some kinds is there; the collector rests until the end of the test."""
    gc.collect()
    gc.disable()
    yield lambda *kinds: [one for one in gc.get_objects() if isinstance(one, kinds)]
    gc.enable()


@pytest.fixture
async def backend() -> AsyncGenerator[FakeBackend]:
    """Run a backend that says what the test tells it to."""
    async with fake_backend() as backend:
        yield backend


class Proxy:
    """A running proxy and ways to reach it."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.daemon = daemon
        self.proxy = daemon.proxy
        self.url = daemon.url
        self._stack = AsyncExitStack()

    async def client(self, **options: int) -> RawClient:
        """Open a raw connection."""
        reader, writer = await asyncio.open_connection(*self.daemon.addresses[0], **options)
        self._stack.callback(writer.close)
        return RawClient(reader, writer)

    async def sees(self, count: int) -> None:
        """Wait until *count* backends have answered: the first request may be sooner than a second answer."""
        await soon(lambda: len(self.proxy.inventory.answering) == count, HERE_S)

    async def known(self) -> None:
        """Wait until what is there is known, for the start may have stood still; who is deaf is let be."""
        with suppress(TimeoutError):
            await soon(lambda: self._is_known, START_S)

    @property
    def _is_known(self) -> bool:
        proxy, inventory = self.proxy, self.proxy.inventory
        looking = [gate for gate in proxy.gates.values() if gate._first_look is not None]
        return not looking and {*inventory.answering, *inventory.down} >= proxy.backends.keys()

    @property
    def leftovers(self) -> int:
        """Count leases, waiters and bodies that the proxy still holds."""
        views = [gate.snapshot() for gate in self.proxy.gates.values()]
        return sum(view.leases + view.waiting for view in views) + self.proxy.visits.body_bytes

    async def settled(self) -> None:
        """Wait until nothing is held any more."""
        await soon(lambda: not self.leftovers, HERE_S)

    async def close(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def start() -> AsyncGenerator[Callable[[str], "asyncio.Future[Proxy]"]]:
    """Start proxies from configurations in YAML, each at any port; one with a Redis is up when that is."""
    async with AsyncExitStack() as stack:

        async def run(text: str) -> Proxy:
            config = config_of(text)
            listen = config.listen.model_copy(update={"port": 0})
            config = config.model_copy(update={"listen": listen})
            proxy = Proxy(await stack.enter_async_context(listening(config)))
            stack.push_async_callback(proxy.close)
            if (shared := proxy.proxy.shared) is not None:
                await soon(lambda: shared.is_up, HERE_S)
            await proxy.known()
            return proxy

        yield run  # type: ignore[misc]


@pytest.fixture
async def proxy(
    start: Callable[[str], "asyncio.Future[Proxy]"], backend: FakeBackend
) -> AsyncGenerator[Proxy]:
    """Run a proxy in front of the fake backend; it must hold nothing when the test is over."""
    proxy = await start(f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}")
    yield proxy
    await proxy.close()
    backend.cut_all()
    await proxy.settled()


def nodes_at(urls: Sequence[str]) -> str:
    """Write the section of a front whose nodes are at *urls*, called `box0` and so on."""
    listed = (f"box{at}: {{url: '{url}', api_key: front}}" for at, url in enumerate(urls))
    return f"nodes: {{{', '.join(listed)}}}"


async def front_of(start: Callable[[str], Awaitable[Proxy]], urls: Sequence[str], rest: str = "") -> Proxy:
    """Run a front of the nodes at *urls*, with the *rest* of its configuration, once all of them answer."""
    proxy = await start(f"{nodes_at(urls)}\n{rest}")
    await proxy.sees(len(urls))
    return proxy


def config_of(text: str) -> Config:
    """
    Read a configuration from YAML.

    Its Redis may take as long as a machine stands still, if *text* gives it `LONGEST_MS`.
    """
    config = parse(text, {})
    if config.redis is None or config.redis.timeout_ms < LONGEST_MS:
        return config
    patient = config.redis.model_copy(update={"timeout_ms": 1000 * HERE_S})
    return config.model_copy(update={"redis": patient})


@pytest.fixture
async def connect() -> AsyncGenerator[Connect]:
    """Connect to daemons that are processes of their own; what is not closed by then is closed in the end."""
    with ExitStack() as stack:

        async def connect(process: Process) -> RawClient:
            host, port = process.url.removeprefix("http://").split(":")
            client = RawClient(*await asyncio.open_connection(host, int(port)))
            stack.callback(client.close)
            return client

        yield connect
