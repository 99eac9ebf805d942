"""TLS: the production server over https, with certificates made on the spot."""

import asyncio
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from dmap.cli import main
from dmap.config import ConfigProblem
from dmap.config import Tls as Files
from dmap.daemon import listening
from dmap.tls import check
from dmap.web.reload import reload
from tests.conftest import Proxy, config_of
from tests.fakes import (
    DONE,
    END,
    HERE_S,
    SSE,
    FakeBackend,
    RawClient,
    answer,
    chat,
    chunk,
    delta,
    held,
    post,
    told,
)
from tests.process import Process

HELLO: Any = [{"role": "user", "content": "Hello"}]
READS = 512 * 1024
"""What one read of the loop brings at most, and OpenSSL holds of it."""
PIECE = delta("x" * 2000)
LARGE = b'{"object": "list", "data": ["' + b"0123456789" * 40_000 + b'"]}'


@dataclass(frozen=True)
class Pair:
    """A certificate of `localhost` and 127.0.0.1, and its key."""

    cert: Path
    key: Path

    @property
    def files(self) -> Files:
        return Files(cert=self.cert, key=self.key)

    @property
    def trusted(self) -> ssl.SSLContext:
        """What a client needs that trusts this certificate and no other."""
        return ssl.create_default_context(cafile=str(self.cert))

    def become(self, other: "Pair") -> None:
        """Have the files of *other* under our names, as a renewal does."""
        self.cert.write_bytes(other.cert.read_bytes())
        self.key.write_bytes(other.key.read_bytes())


def made(folder: Path, name: str, *options: str) -> Pair:
    """Have OpenSSL make a certificate that signs itself."""
    pair = Pair(folder / f"{name}.cert.pem", folder / f"{name}.key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", pair.key, "-out", pair.cert,
         *(options or ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"))],
        check=True, capture_output=True, timeout=HERE_S,
    )  # fmt: skip
    return pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """The certificate that is configured."""
    return made(tmp_path, "first")


@pytest.fixture
def renewed(tmp_path: Path) -> Pair:
    """The next one."""
    return made(tmp_path, "second")


def text(pair: Pair, backend: FakeBackend, rest: str = "") -> str:
    """A configuration with TLS."""
    tls = f"listen: {{tls: {{cert: '{pair.cert}', key: '{pair.key}'}}}}"
    return f"{tls}\nbackends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n{rest}"


@pytest.fixture
async def proxy(start: Callable[[str], Any], backend: FakeBackend, pair: Pair) -> AsyncGenerator[Proxy]:
    """Run a proxy with TLS; it must hold nothing when the test is over."""
    backend.script = backend.by_hand
    proxy = await start(text(pair, backend, "server: {buffer: 64KiB}"))
    yield proxy
    await proxy.close()
    backend.cut_all()
    await proxy.settled()


async def raw(proxy: Proxy, pair: Pair) -> RawClient:
    """Open a connection whose bytes are those inside TLS."""
    options: Any = {"ssl": pair.trusted, "server_hostname": "localhost"}
    return await proxy.client(**options)


def client_of(url: str, pair: Pair) -> AsyncOpenAI:
    """OpenAI's own client, which checks the certificate."""
    http = DefaultAsyncHttpxClient(verify=pair.trusted)
    return AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=http)


def number(client: RawClient) -> Any:
    """Return the serial number of the certificate that the client was shown."""
    return client.writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]


async def asked(proxy: Proxy, pair: Pair) -> Any:
    """Return what a new connection is shown; who trusts only *pair* gets no other."""
    client = await raw(proxy, pair)
    await client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await client.answer()).status == 200
    return number(client)


# Requests


async def test_a_stream_over_https(proxy: Proxy, backend: FakeBackend, pair: Pair) -> None:
    """OpenAI's client streams over https, each piece as it comes."""
    assert proxy.url.startswith("https://")
    async with client_of(proxy.url, pair) as client:
        asking = asyncio.ensure_future(client.chat.completions.create(model="m", messages=HELLO, stream=True))
        exchange = await backend.next()
        await exchange.write(SSE, chunk(delta("one")))
        stream = await asking
        first = await anext(aiter(stream))
        await exchange.end(chunk(delta("two")), chunk(DONE), END)
        rest = [piece.choices[0].delta.content async for piece in stream]

    assert [first.choices[0].delta.content, *rest] == ["one", "two"]


async def test_two_hundred_pieces(proxy: Proxy, backend: FakeBackend, pair: Pair) -> None:
    """Not a byte is lost or doubled."""
    client = await raw(proxy, pair)
    await client.send(post(chat()))
    exchange = await backend.next()
    await exchange.write(SSE, *(chunk(delta(str(n))) for n in range(200)))
    await exchange.end(chunk(DONE), END)

    assert (await client.answer()).body == b"".join(delta(str(n)) for n in range(200)) + DONE


async def test_a_broken_stream_does_not_look_complete(proxy: Proxy, backend: FakeBackend, pair: Pair) -> None:
    """A backend that dies gives OpenAI's client an error, never an end."""
    async with client_of(proxy.url, pair) as client:
        asking = asyncio.ensure_future(client.chat.completions.create(model="m", messages=HELLO, stream=True))
        exchange = await backend.next()
        await exchange.write(SSE, chunk(delta("one")))
        stream = await asking
        exchange.cut()

        with pytest.raises(openai.APIError):
            [piece async for piece in stream]


async def test_a_broken_stream_in_bytes(proxy: Proxy, backend: FakeBackend, pair: Pair) -> None:
    """The last thing is an error event, and no last chunk after it."""
    client = await raw(proxy, pair)
    await client.send(post(chat()))
    exchange = await backend.next()
    await exchange.write(SSE, chunk(delta("one")))
    await client.until(delta("one"))
    exchange.cut()

    rest = await client.all()

    assert told(rest)["error"]["code"] == "backend_broke"
    assert not rest.endswith(END)


async def test_a_broken_plain_answer(proxy: Proxy, backend: FakeBackend, pair: Pair) -> None:
    """An answer that breaks off has fewer bytes than it announced."""
    client = await raw(proxy, pair)
    await client.send(post(chat(stream=False)))
    exchange = await backend.next()
    await exchange.write(answer(LARGE)[: len(LARGE) // 2])
    await client.head()
    exchange.cut()

    assert len(await client.all()) < len(LARGE)


async def test_a_broken_stream_to_http_1_0(proxy: Proxy, backend: FakeBackend, pair: Pair) -> None:
    """Where only the end of the connection ends an answer, a broken one ends with a reset."""
    client = await raw(proxy, pair)
    await client.send(post(chat(), version="1.0"))
    exchange = await backend.next()
    await exchange.write(SSE, chunk(delta("one")))
    await client.until(delta("one"))
    exchange.cut()

    with pytest.raises(ConnectionResetError):
        await client.all()


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset], ids=["close", "reset"])
async def test_who_leaves_is_noticed(
    proxy: Proxy, backend: FakeBackend, pair: Pair, leave: Callable[[RawClient], None]
) -> None:
    """A client that leaves ends the backend's work at once."""
    client = await raw(proxy, pair)
    await client.send(post(chat()))
    exchange = await backend.next()
    await exchange.write(SSE, chunk(delta("one")))
    await client.until(delta("one"))

    leave(client)

    await exchange.abandoned()


async def test_a_client_that_does_not_read(proxy: Proxy, backend: FakeBackend, pair: Pair) -> None:
    """Also through TLS a backend is read only as fast as the client reads."""
    sock = await asyncio.to_thread(stalled, proxy.daemon.addresses[0], pair)
    exchange = await backend.next()
    exchange.squeeze()
    await exchange.write(SSE)
    pouring = asyncio.ensure_future(exchange.pour(chunk(PIECE), 10_000))

    assert await held(proxy, backend, exchange) < 64 * 1024 + READS
    sock.close()
    await exchange.abandoned()
    pouring.cancel()


def stalled(address: tuple[str, int], pair: Pair) -> ssl.SSLSocket:
    """Ask for a stream and read nothing of it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    sock.connect(address)
    wrapped = pair.trusted.wrap_socket(sock, server_hostname="localhost")
    wrapped.sendall(post(chat()))
    return wrapped


# What is agreed on


async def test_old_versions_are_refused(proxy: Proxy, pair: Pair) -> None:
    """TLS 1.2 is the least."""
    old = pair.trusted
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    options: Any = {"ssl": old, "server_hostname": "localhost"}

    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await proxy.client(**options)


async def test_plain_http_gets_nothing(proxy: Proxy, pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """Who speaks plain HTTP to it is cut off; others are served, and the log stays quiet."""
    client = await proxy.client()
    await client.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert b"HTTP" not in await rest_of(client)
    assert await asked(proxy, pair)
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def rest_of(client: RawClient) -> bytes:
    """Read to the end, be it a reset."""
    try:
        return await client.all()
    except ConnectionResetError:
        return b""


async def test_sockets_of_systemd(backend: FakeBackend, pair: Pair) -> None:
    """A socket that is handed over speaks TLS as well."""
    sock = socket.create_server(("127.0.0.1", 0))
    async with listening(config_of(text(pair, backend)), [sock]) as daemon:
        proxy = Proxy(daemon)
        assert await asked(proxy, pair)
        await proxy.close()


# Reload


async def test_a_renewed_certificate(
    proxy: Proxy, backend: FakeBackend, pair: Pair, renewed: Pair, tmp_path: Path
) -> None:
    """After a reload new connections are shown the new certificate; a stream goes on to its end."""
    old = await raw(proxy, pair)
    await old.send(post(chat()))
    exchange = await backend.next()
    await exchange.write(SSE, chunk(delta("one")))
    await old.until(delta("one"))
    pair.become(renewed)

    reload(proxy.proxy, config_of(text(pair, backend)).model_copy(update={"listen": listen(proxy, pair)}))

    assert await asked(proxy, renewed) != number(old)
    await exchange.end(chunk(DONE), END)
    assert (await old.until(END)).endswith(DONE + b"\r\n" + END)


def listen(proxy: Proxy, pair: Pair) -> Any:
    """The `listen` that *proxy* runs with, but for its files."""
    return proxy.proxy.config.listen.model_copy(update={"tls": pair.files})


async def test_other_files(proxy: Proxy, backend: FakeBackend, renewed: Pair) -> None:
    """The files may also be other ones."""
    reload(proxy.proxy, proxy.proxy.config.model_copy(update={"listen": listen(proxy, renewed)}))

    assert await asked(proxy, renewed)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("cert", "no certificate"),
        ("key", "no key"),
        ("both", "cannot be read"),
        ("mixed", "not the key of"),
    ],
)
async def test_a_bad_file_changes_nothing(
    proxy: Proxy, backend: FakeBackend, pair: Pair, renewed: Pair, broken: str, problem: str
) -> None:
    """A file that cannot be used is told with its path, and the old certificate is shown on."""
    shown = await asked(proxy, pair)
    trusted = Pair(renewed.cert.with_name("kept"), renewed.key)
    trusted.cert.write_bytes(pair.cert.read_bytes())
    spoil(pair, renewed, broken)

    with pytest.raises(ConfigProblem, match=rf"listen\.tls\.(cert|key): \S+: {problem}"):
        reload(proxy.proxy, proxy.proxy.config.model_copy(update={"allow_models": ()}))

    assert await asked(proxy, trusted) == shown
    assert proxy.proxy.config.allow_models == ("*",)


def spoil(pair: Pair, other: Pair, how: str) -> None:
    """Make the files of *pair* unusable."""
    match how:
        case "cert":
            pair.cert.write_text("nonsense")
        case "key":
            pair.key.write_text("nonsense")
        case "both":
            pair.cert.unlink()
            pair.key.unlink()
        case "mixed":
            pair.key.write_bytes(other.key.read_bytes())


async def test_with_or_without_takes_a_restart(proxy: Proxy) -> None:
    """A server that speaks TLS goes on speaking it until it is started anew."""
    plain = proxy.proxy.config.listen.model_copy(update={"tls": None})

    with pytest.raises(ConfigProblem, match="restart"):
        reload(proxy.proxy, proxy.proxy.config.model_copy(update={"listen": plain}))


# Files


def test_a_key_with_a_password(tmp_path: Path) -> None:
    """A key that needs a password is refused; nobody is asked for one."""
    pair = made(tmp_path, "locked", "-newkey", "rsa:2048", "-passout", "pass:secret")

    with pytest.raises(ConfigProblem, match=r"listen\.tls\.key: .*password"):
        check(pair.files)


def test_a_key_of_another_kind(tmp_path: Path, pair: Pair) -> None:
    """An EC key does not fit an RSA certificate."""
    rsa = made(tmp_path, "rsa", "-newkey", "rsa:2048", "-nodes")

    with pytest.raises(ConfigProblem, match="not the key of"):
        check(Files(cert=rsa.cert, key=pair.key))


def test_all_files_that_are_missing_are_told(tmp_path: Path) -> None:
    """Both files are looked at before anything is told."""
    with pytest.raises(ConfigProblem) as refused:
        check(Files(cert=tmp_path / "no", key=tmp_path))

    assert refused.value.problems == [
        f"listen.tls.cert: {tmp_path}/no: cannot be read: No such file or directory",
        f"listen.tls.key: {tmp_path}: cannot be read: Is a directory",
    ]


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """A certificate that is not there ends `serve` and `check-config` with 78 and the path."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "listen: {port: 0, tls: {cert: tls/cert.pem, key: key.pem}}\n"
        "backends: {a: {kind: openai, url: 'http://127.0.0.1:1'}}\n"
    )

    assert main([command, str(path)]) == 78
    assert f"listen.tls.cert: {tmp_path}/tls/cert.pem: cannot be read" in capsys.readouterr().err


# The process


@asynccontextmanager
async def serving(path: Path) -> AsyncGenerator[Process]:
    """Run the daemon with the configuration at *path*."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dmap", "serve", str(path)), stderr=asyncio.subprocess.PIPE
    )
    process = Process(child)
    try:
        process.url = re.findall(r"url=(\S+)", await process.until_logged("listening url="))[0]
        yield process
    finally:
        child.send_signal(signal.SIGTERM)
        await process.drain_log()
        assert await asyncio.wait_for(child.wait(), HERE_S) == 0


async def test_hangup(tmp_path: Path, backend: FakeBackend, pair: Pair, renewed: Pair) -> None:
    """SIGHUP reads the files again; if they are bad, that is in the log and the old ones stay."""
    path = tmp_path / "config.yaml"
    path.write_text(text(pair, backend).replace("listen: {", "listen: {port: 0, "))
    async with serving(path) as process:
        async with client_of(process.url, pair) as client:
            assert (await client.models.list()).data

        pair.become(renewed)
        process.child.send_signal(signal.SIGHUP)
        await process.until_logged("reloaded")
        async with client_of(process.url, renewed) as client:
            assert (await client.models.list()).data

        pair.key.write_text("nonsense")
        process.child.send_signal(signal.SIGHUP)
        line = await process.until_logged("reload_refused")
        async with client_of(process.url, renewed) as client:
            assert (await client.models.list()).data

    assert f"listen.tls.key: {pair.key}: no key in PEM" in line
