"""The life of the process, seen from outside: it ends when told to, and cuts nobody off without a word."""

import asyncio
import contextlib
import hashlib
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import psutil
import pytest

from dmap.config import Device, parse
from dmap.daemon import RunningDaemon
from dmap.gate import Gate
from dmap.models import ModelInfo
from dmap.web.proxy import Proxy as WebProxy
from tests.conftest import Connect, Proxy
from tests.fake_switcher import FakeSwitcher, Step
from tests.fakes import (
    DONE,
    END,
    HERE_S,
    SSE,
    WHOLE,
    Answer,
    Exchange,
    FakeBackend,
    RawClient,
    answer,
    chat,
    chunk,
    delta,
    fake_backend,
    post,
    soon,
    told,
    within,
)
from tests.process import Process, daemon

LONG = "{shutdown_s: 600}"
"""Ten times what is waited for the end: a daemon that goes by it has not ended when it should."""

Serve = Callable[..., Awaitable[Process]]


@pytest.fixture
async def serve(tmp_path, backend) -> AsyncGenerator[Serve]:
    """Start a daemon in front of the fake backend; in the end it must have ended with 0."""
    backend.script = backend.by_hand
    async with AsyncExitStack() as stack:

        async def start(server: str = LONG, parallel: int = 4, rest: str = "") -> Process:
            options = f"kind: openai, url: '{backend.url}', parallel: {parallel}"
            text = f"backends: {{fake: {{{options}}}}}\nserver: {server}\n{rest}"
            return await stack.enter_async_context(daemon(tmp_path, text))

        yield start


async def streaming(client: RawClient, backend: FakeBackend) -> Exchange:
    """Begin a stream; return once its first text has come through."""
    await client.send(post(chat()))
    exchange = await backend.next()
    await exchange.write(SSE, chunk(delta("one")))
    await client.until(chunk(delta("one")))
    return exchange


async def ended(process: Process) -> int:
    """Wait for the end; return the exit code."""
    async with asyncio.timeout(HERE_S):
        return await process.ended()


def tell(process: Process, number: signal.Signals = signal.SIGTERM) -> None:
    process.child.send_signal(number)


async def stopping(process: Process, connect: Connect) -> None:
    """Tell the daemon to end, and wait until nobody can connect any more."""
    tell(process)
    async with asyncio.timeout(HERE_S):
        with contextlib.suppress(ConnectionError):
            while True:
                (await connect(process)).close()


async def test_a_start_without_standard_files(tmp_path):
    """Started with nothing at 0, 1 and 2 it runs all the same, and no socket gets these numbers."""
    config, told = tmp_path / "config.yaml", tmp_path / "notify"
    config.write_text("listen: {port: 0}\nbackends: {fake: {kind: openai, url: 'http://127.0.0.1:9'}}\n")
    dmap = (sys.executable, "-m", "dmap", "serve", str(config))
    closing = ("sh", "-c", 'exec "$0" "$@" 0>&- 1>&- 2>&-')
    environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path), "NOTIFY_SOCKET": str(told)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(str(told))
        service.settimeout(HERE_S)
        child = await asyncio.create_subprocess_exec(*closing, *dmap, env=environment)

        said = await asyncio.to_thread(service.recv, 4096)
        files = [os.readlink(f"/proc/{child.pid}/fd/{number}") for number in range(3)]

    tell(Process(child))
    assert said == b"STATUS=starting" and files == ["/dev/null"] * 3
    assert await ended(Process(child)) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_idle_it_ends_at_once(serve, connect, number):
    """With nothing under way, a signal ends it well, whatever connections stand idle; Ctrl-C is no error."""
    process = await serve()
    idle = await connect(process)
    await idle.send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    await idle.answer()

    tell(process, number)

    assert await ended(process) == 0
    assert "Traceback" not in "".join(process.log)


async def test_the_start_says_what_is_here(serve, backend):
    """The log begins with the devices, the backends with their models, and the address."""
    process = await serve(rest="devices: {gpu0: {memory: 8GiB}}")

    said = "".join(process.log)
    assert f" backend name=fake kind=openai url={backend.url} models=" in said
    assert " device name=gpu0 memory=8589934592 max_models=1\n" in said
    assert re.search(r" listening url=http://127\.0\.0\.1:\d+ backends=fake\n", said)


@pytest.mark.parametrize(("options", "is_told"), [((), False), (("--log-level", "debug"), True)])
async def test_the_level_of_the_log(tmp_path, backend, connect, options, is_told):
    """Probes are told from `debug` on; the command line goes before the file."""
    text = f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\nlog: {{level: info}}"
    async with daemon(tmp_path, text, options=options) as process:
        client = await connect(process)
        await client.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await client.answer()

    assert ("path=/health" in "".join(process.log)) is is_told


async def test_a_stream_is_finished(serve, backend, connect):
    """A stream that runs when SIGTERM comes goes on to its end, and then the daemon ends."""
    process = await serve()
    client = await connect(process)
    exchange = await streaming(client, backend)
    await stopping(process, connect)

    await exchange.end(chunk(delta("two") + DONE), END)

    assert await client.until(END) == chunk(delta("two") + DONE) + END
    assert await ended(process) == 0
    assert " INFO dmap.requests request " in process.log[-1]
    assert "outcome=success" in process.log[-1]


async def test_who_waits_is_refused(serve, backend, connect):
    """Who waits in a queue when SIGTERM comes is told 503 and when to come back; who is served is not cut."""
    process = await serve(parallel=1)
    client = await connect(process)
    exchange = await streaming(client, backend)
    waiting = await connect(process)
    await waiting.send(post(chat()))
    await somebody_waits(await connect(process))

    tell(process)

    answer = await waiting.answer()
    assert (answer.status, answer.error["code"]) == (503, "shutting_down")
    assert answer.head.headers["retry-after"] == "5"
    await exchange.end(chunk(DONE), END)
    assert (await client.all()).endswith(chunk(DONE) + END)
    assert await ended(process) == 0


async def somebody_waits(client: RawClient) -> None:
    """Wait until `/ready` tells of somebody who waits."""
    async with asyncio.timeout(HERE_S):
        body = b""
        while b'"waiting": 1' not in body:
            await client.send(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            body = (await client.answer()).body


async def test_a_stream_that_takes_too_long_is_told_and_cut(serve, backend, connect):
    """After `shutdown_s` what still runs gets an error inside its stream, and its connection is cut."""
    process = await serve(server="{shutdown_s: 0.3}")
    client = await connect(process)
    await streaming(client, backend)

    tell(process)

    rest = await client.all()
    assert told(rest)["error"]["code"] == "shutting_down"
    assert END not in rest
    assert await ended(process) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(serve, backend, connect, number):
    """A second signal does not wait for streams: they are told, and the daemon ends."""
    process = await serve()
    client = await connect(process)
    exchange = await streaming(client, backend)
    await stopping(process, connect)

    tell(process, number)

    assert told(await client.all())["error"]["code"] == "shutting_down"
    assert await ended(process) == 0
    await exchange.abandoned()
    assert "Traceback" not in "".join(process.log)


async def test_a_request_half_sent_does_not_hold_it(serve, connect):
    """A client in the middle of its request keeps the daemon for `shutdown_s` at most."""
    process = await serve(server="{shutdown_s: 0.3}")
    slow = await connect(process)
    await slow.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{")

    tell(process)

    assert await ended(process) == 0


async def test_who_was_let_in_just_before_is_answered(serve, backend, connect):
    """A load balancer sends what it has connected for, also where dmap was told to end meanwhile."""
    process = await serve()
    tell(process, signal.SIGSTOP)
    await soon(lambda: psutil.Process(process.child.pid).status() == psutil.STATUS_STOPPED, HERE_S)
    clients = [await connect(process) for _ in range(8)]
    tell(process)
    for client in clients:
        await client.send(post(chat(stream=False)))
    backend.script = lambda exchange: exchange.end(answer(WHOLE))

    tell(process, signal.SIGCONT)

    assert [(await client.answer()).status for client in clients] == [200] * 8
    assert await ended(process) == 0


async def test_it_leaves_no_process_behind(serve):
    """A daemon without engines has no child, and none is left when it has ended."""
    process = await serve()
    before = psutil.Process(process.child.pid).children(recursive=True)

    tell(process)

    assert await ended(process) == 0
    assert before == []


async def test_no_key_is_in_the_log(serve, backend, connect):
    """Neither a right nor a wrong key, nor the backend's own, is ever logged, nor what was asked."""
    digest = hashlib.sha256(b"sk-RIGHT").hexdigest()
    process = await serve(rest=f"access: {{keys: [{{name: webui, sha256: {digest}}}]}}")
    client = await connect(process)
    asked = chat(messages=[{"role": "user", "content": "PRIVATE"}])
    await client.send(post(asked, headers="x-api-key: sk-RIGHT\r\n"))
    await (await backend.next()).end(SSE, chunk(DONE), END)
    await client.body(await client.head())
    await client.send(post(asked, headers="x-api-key: sk-WRONG\r\n"))
    await client.answer()

    tell(process)

    assert await ended(process) == 0
    log = "".join(process.log)
    assert [word for word in ("RIGHT", "WRONG", "PRIVATE", digest) if word in log] == []
    assert re.findall(r"client=(\S+) .* outcome=(\S+)", log) == [
        ("webui", "success"),
        ("127.0.0.1", "invalid_api_key"),
    ]


async def test_a_backend_that_hangs_does_not_hold_the_start(serve, connect, backend):
    """dmap answers while a backend that takes connections says nothing, and is not ready yet."""
    backend.hangs = True
    process = await serve()
    client = await connect(process)

    await client.send(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    assert (await client.answer()).status == 503


async def answered(proxy: Proxy, host: str, request: bytes) -> Answer:
    """Ask *proxy* at one of this host's addresses."""
    reader, writer = await asyncio.open_connection(host, proxy.daemon.addresses[0][1])
    try:
        client = RawClient(reader, writer)
        await client.send(request)
        return await client.answer()
    finally:
        writer.close()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
class TestBothFamilies:
    """`listen.host: "::"`."""

    @pytest.fixture
    async def proxy(self, start, backend) -> Proxy:
        """Run a proxy at every address of this host; it trusts nginx here to name clients of the LAN."""
        return await start(
            "listen: {host: '::'}\n"
            "access: {allow: [192.168.1.0/24], trusted_proxies: [127.0.0.1]}\n"
            f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}"
        )

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    async def test_each_is_served(self, proxy, host):
        """Clients of IPv4 and of IPv6 are served; loopback of both may see what is private."""
        request = b"GET /debug/status HTTP/1.1\r\nHost: localhost\r\n\r\n"

        assert (await answered(proxy, host, request)).status == 200
        assert proxy.daemon.addresses[0][0] == "::"

    async def test_the_name_of_a_client(self, proxy, caplog):
        """In the log a client of IPv4 has the address that it has."""
        caplog.set_level(logging.INFO, "dmap.requests")

        await answered(proxy, "127.0.0.1", post(chat()))
        await answered(proxy, "127.0.0.1", post(chat(), headers="X-Real-IP: 192.0.2.1\r\n"))

        assert re.findall(r"client=(\S+)", caplog.text) == ["127.0.0.1"] * 2

    @pytest.mark.parametrize(("client", "status"), [("192.168.1.20", 200), ("192.168.2.20", 403)])
    async def test_a_trusted_proxy(self, proxy, client, status):
        """A proxy that is trusted by its address of IPv4 is trusted here too."""
        request = f"GET /ready HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n\r\n".encode()

        assert (await answered(proxy, "127.0.0.1", request)).status == status


async def test_a_slow_backend_does_not_hold_up_the_start(start, backend):
    """A backend that does not answer keeps dmap for two seconds at most, and other backends not at all."""
    async with fake_backend() as slow:
        slow.hangs = True
        studio = f"studio: {{kind: lmstudio, url: '{slow.url}', device: gpu0}}"
        fake = f"fake: {{kind: openai, url: '{backend.url}'}}"
        proxy = await within(5, start(f"backends: {{{fake}, {studio}}}\ndevices: {{gpu0: {{}}}}"))
        client = await proxy.client()

        await client.send(post(chat()))

        assert (await client.answer()).status == 200
        assert slow.connections > 0


class Stubborn(FakeSwitcher):
    """A backend that takes its time when a look is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.leaving = Step()
        self.leaving.hold()
        self.looking.hold()

    async def models(self) -> Sequence[ModelInfo]:
        """Look for ever."""
        try:
            return await super().models()
        except asyncio.CancelledError:
            await self.leaving()
            raise


@pytest.fixture
async def stubborn() -> AsyncGenerator[list[Stubborn]]:
    """Three backends that leave when the test is over, if not before."""
    switchers = [Stubborn() for _ in range(3)]
    yield switchers
    for switcher in switchers:
        switcher.leaving.release.set()


async def ending(stubborn: list[Stubborn], shutdown_s: float) -> RunningDaemon:
    """A daemon with a started gate for each of the backends."""
    backends = "{fake: {kind: openai, url: 'http://127.0.0.1:9'}}"
    config = parse(f"backends: {backends}\nserver: {{shutdown_s: {shutdown_s}}}", {})
    gates = {f"gpu{at}": Gate(f"gpu{at}", Device(), {"studio": each}) for at, each in enumerate(stubborn)}
    await asyncio.gather(*(gate.start() for gate in gates.values()))
    proxy = WebProxy(config)
    proxy.gates = gates
    return RunningDaemon(proxy, [], [])


async def test_gates_close_at_once(stubborn):
    """The end of one device's work is not waited for before that of another begins."""
    daemon = await ending(stubborn, 60)
    draining = asyncio.create_task(daemon.drain(asyncio.Event()))

    async with asyncio.timeout(HERE_S):
        await asyncio.gather(*(each.leaving.started.wait() for each in stubborn))
    for each in stubborn:
        each.leaving.release.set()

    async with asyncio.timeout(HERE_S):
        await draining


async def test_gates_close_within_the_time_for_it(stubborn):
    """What will not end on a device keeps the daemon for `shutdown_s` at most."""
    daemon = await ending(stubborn, 0.2)

    async with asyncio.timeout(HERE_S):
        await daemon.drain(asyncio.Event())

    assert not any(each.leaving.release.is_set() for each in stubborn)
