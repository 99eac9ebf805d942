"""The commands that ask a running daemon: what they send, what they print, how they end."""

import asyncio
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

import dmap
from dmap.remote.client import Trouble, daemon_of
from dmap.remote.pages import models, report, summary
from tests.conftest import Proxy
from tests.fakes import END, HERE_S, SSE, answer, chunk
from tests.ports import nobody
from tests.programs import find, why_not
from tests.test_tail import scripted
from tests.test_tls import made

Ended = tuple[int, str, str]

SYSTEMD = Path(dmap.__file__).parent.parent / "systemd"


async def run(url: str, *arguments: str, **environment: str) -> Ended:
    """Run a command against the daemon at *url* to its end; return exit code, output and complaints."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dmap", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"DMAP_URL": url, **environment},
    )
    async with asyncio.timeout(HERE_S):
        out, err = await child.communicate()
    assert child.returncode is not None
    return child.returncode, out.decode(), err.decode()


class TestWhereItIs:
    @pytest.mark.parametrize(
        "url",
        [
            "127.0.0.1:8000",
            "ftp://a",
            "http://",
            "http://a:b",
            "http://a:70000",
            "http://u:p@a",
            "http://a?x",
            "x",
        ],
    )
    def test_a_wrong_address(self, url) -> None:
        """An address that cannot be asked is told, never guessed at."""
        with pytest.raises(Trouble, match="DMAP_URL"):
            daemon_of({"DMAP_URL": url})

    @pytest.mark.parametrize("key", ["a\nb", "ä", "a\x00"])
    def test_a_wrong_key(self, key) -> None:
        """A key that cannot be one is told, but not shown."""
        with pytest.raises(Trouble, match="DMAP_KEY") as caught:
            daemon_of({"DMAP_KEY": key})

        assert key not in str(caught.value)

    def test_a_wrong_option(self) -> None:
        """An address on the command line is told by the option's name."""
        with pytest.raises(Trouble, match="--url: write it like"):
            daemon_of({}, "box")

    @pytest.mark.parametrize(
        ("environment", "url"),
        [
            ({}, "http://127.0.0.1:8000"),
            ({"DMAP_URL": ""}, "http://127.0.0.1:8000"),
            ({"DMAP_URL": "https://box.lan/dmap/"}, "https://box.lan/dmap"),
            ({"DMAP_URL": "http://[::1]:8000"}, "http://[::1]:8000"),
            ({"DMAP_URL": "http://box:8000/v1"}, "http://box:8000"),
            ({"DMAP_URL": "http://0.0.0.0:8000"}, "http://127.0.0.1:8000"),
            ({"DMAP_URL": "https://[::]:8000"}, "https://[::1]:8000"),
            ({"DMAP_URL": "https://box.lan/dmap/v1/"}, "https://box.lan/dmap"),
        ],
    )
    def test_the_address(self, environment, url) -> None:
        """Without an address it is dmap's default; one out of its log, or of its clients, will do."""
        assert daemon_of(environment).url == url


class TestStatus:
    def test_the_tables(self) -> None:
        """
        Devices, backends and the queue are tables; what is not there has none.

        A device's waiters are counted together, those not listed too; one that serves nobody has no
        estimate for them.
        """
        waiting = {"id": "req_12345678c", "client": "webui", "model": "b", "backend": "lm", "position": 1}
        waiting |= {"waited_s": 4.0, "estimate_s": 0.5}
        alone, nobody = {"waiting": [waiting], "more_waiting": 0}, {"waiting": [], "more_waiting": 0}
        resident = {"model": "a", "backend": "lm", "leases": 2, "waiting": 0, "for_s": 200.0, "leaving": True}
        switch = {"load": "lm/b", "unload": ["lm/a"], "phase": "drain", "for_s": 1.5}
        told = {
            "version": "1.2",
            "uptime_s": 3700.0,
            "open": 1,
            "active": "lm/a",
            "devices": {
                "gpu0": {
                    "residents": [resident, resident | {"model": "e", "leaving": False}],
                    "switch": switch,
                    "drained": False,
                    "held": {"vllm": 14 * 2**30, "far": None},
                    "waiting": [waiting, waiting | {"id": "req_12345678d", "position": 2}],
                    "more_waiting": 98,
                },
                "gpu1": {"residents": [], "switch": None, "drained": True} | alone,
            },
            "backends": {
                "lm": {"kind": "lmstudio", "device": "gpu0", "answers": True},
                "far": {"kind": "openai", "device": None, "answers": False, "leases": 0} | nobody,
            },
        }

        assert report("http://a", told).splitlines() == [
            "dmap 1.2 at http://a, up 1 h 1 min, 1 open request, active model lm/a",
            "",
            "DEVICE  RESIDENT  LEASES  WAITING           SINCE",
            "gpu0    lm/a           2      100  3 min 20 s ago  leaving",
            "        lm/e           2        -  3 min 20 s ago",
            "        vllm           -        -               -  holds 14 GiB; dmap cannot unload it",
            "        far            -        -               -  shares it; dmap cannot unload it",
            "        -> lm/b        -        -       1.5 s ago  under way: drain",
            "gpu1    none           0        1               -  drained",
            "",
            "BACKEND  KIND      DEVICE  ANSWERS  LEASES  WAITING",
            "lm       lmstudio  gpu0    yes           -        -",
            "far      openai    -       NO            0        0",
            "",
            "QUEUE  PLACE  REQUEST      CLIENT  MODEL  WAITED   ABOUT",
            "gpu0       1  2345678c     webui   lm/b    4.0 s  500 ms",
            "gpu0       2  2345678d     webui   lm/b    4.0 s  500 ms",
            "gpu0       -  and 98 more  -       -           -       -",
            "gpu1       1  2345678c     webui   lm/b    4.0 s       -",
        ]

    async def test_of_a_running_daemon(self, proxy: Proxy) -> None:
        """It shows the daemon that DMAP_URL names."""
        code, out, err = await run(proxy.url, "status")

        assert (code, err) == (0, "")
        assert out.startswith("dmap ") and "\nfake     openai  -       yes" in out

    async def test_again_and_again(self, proxy: Proxy) -> None:
        """With --watch it is shown again every second, until Ctrl-C."""
        command = (sys.executable, "-m", "dmap", "status", "--watch", "--url", proxy.url)
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert child.stdout is not None
        async with asyncio.timeout(HERE_S):
            first, second = [await child.stdout.readuntil(b"\x1b[2J") for _ in range(2)]
        child.send_signal(signal.SIGINT)
        await child.communicate()

        assert (first, child.returncode) == (b"\x1b[H\x1b[2J", 130)
        assert second.startswith(b"dmap ") and b"\nfake     openai  -       yes" in second

    def test_it_fits_the_terminal(self) -> None:
        """In 80 columns long names are cut in the middle, and figures are not."""
        waiting = {"id": "req_12345678c", "client": "a-client-with-a-long-name", "position": 1}
        waiting |= {
            "model": "mistral-small-3.2-24b-instruct-q4",
            "backend": "engine",
            "waited_s": 75.0,
            "estimate_s": 185.0,
        }
        device = {"residents": [], "switch": None, "drained": False, "waiting": [waiting], "more_waiting": 0}
        told = {"version": "1.2", "uptime_s": 1, "open": 1, "devices": {"gpu0": device}, "backends": {}}

        lines = report("http://a", told, 80).splitlines()

        assert max(map(len, lines)) == 80
        assert lines[-1] == "gpu0       1  2345678c  a-clien…ong-name  engine/…ruct-q4  1 min 15 s  3 min 5 s"

    def test_who_is_served(self) -> None:
        """Requests that have a model are listed with ids that `cancel` takes, and what they got so far."""
        one = {"id": "req_12345678c", "client": "webui", "model": "a", "backend": "lm", "device": "gpu0"}
        one |= {"for_s": 2.0, "bytes": 321}
        served = [one, one | {"id": "req_12345678d", "device": None}]
        told = {"version": "1.2", "uptime_s": 1, "open": 9, "devices": {}, "backends": {}}

        lines = report("http://a", told | {"served": served, "more_served": 7}).splitlines()

        assert lines[2:] == [
            "SERVED      REQUEST   CLIENT  MODEL    FOR  BYTES",
            "gpu0        2345678c  webui   lm/a   2.0 s    321",
            "lm          2345678d  webui   lm/a   2.0 s    321",
            "and 7 more  -         -       -          -      -",
        ]

    @pytest.mark.parametrize("width", [0, 80, 79])
    def test_wide_characters(self, width) -> None:
        """A name takes as many columns as a terminal gives it, two for each of these; none is cut in two."""
        names = ("模型" * 12, "a" * 40, "🦙 llama")
        one = {"id": "req_12345678c", "client": "客户" * 9, "backend": "lm", "device": "gpu0"}
        served = [one | {"model": name, "for_s": 2.0, "bytes": 321} for name in names]
        told = {"version": "1.2", "uptime_s": 1, "open": 9, "devices": {}, "backends": {}}

        lines = report("http://a", told | {"served": served}, width).splitlines()[2:]

        wide = [len(each) + len(re.findall("[模型客户🦙]", each)) for each in lines]
        assert len(set(wide)) == 1 and (not width or wide[0] <= width)

    async def test_as_json(self, proxy: Proxy) -> None:
        """With --json it is all that the daemon tells."""
        code, out, _ = await run(proxy.url, "status", "--json")

        assert (code, json.loads(out)["backends"]["fake"]["answers"]) == (0, True)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "Connection refused"),
    ],
)
def test_why_nobody_answers(reason, told) -> None:
    """What the resolver says is told in its words, for its numbers are not the system's."""
    key = ConnectionKey("box", 80, False, True, None, None, None)

    trouble = daemon_of({"DMAP_URL": "http://box"}).trouble(aiohttp.ClientConnectorError(key, reason))

    assert str(trouble) == f"no dmap answers at http://box ({told}); --url or DMAP_URL says where it is"


@pytest.mark.parametrize("command", ["status", "tail", "reload", "load m"])
class TestTrouble:
    async def test_nobody_there(self, command) -> None:
        """A daemon that cannot be reached is told in one line, with what to do; the exit code is 1."""
        with nobody() as port:
            url = f"http://127.0.0.1:{port}"
            code, out, err = await run(url, *command.split())

        assert (code, out) == (1, "")
        where = "(Connection refused); --url or DMAP_URL says where it is"
        assert err == f"dmap: no dmap answers at {url} {where}\n"

    async def test_a_refusal(self, command) -> None:
        """What the daemon refuses is told in its own words, and the key nowhere."""
        refusal = answer(b'{"error": {"message": "it may not"}}', status="403 Forbidden")
        async with scripted(refusal) as (other, heads):
            code, out, err = await run(other.url, *command.split(), DMAP_KEY="sk-hush")

        assert (code, out, err) == (1, "", f"dmap: {other.url} refused (403): it may not\n")
        assert b"Authorization: Bearer sk-hush\r\n" in heads[0]


@pytest.mark.parametrize("command", ["status", "tail"])
class TestTheWrongScheme:
    async def test_http_where_there_is_tls(self, command, start, tmp_path) -> None:
        """A daemon with TLS that is asked without is told with what DMAP_URL may lack."""
        pair = made(tmp_path, "first")
        proxy = await start(
            f"listen: {{tls: {{cert: '{pair.cert}', key: '{pair.key}'}}}}\n"
            "backends: {a: {kind: openai, url: 'http://127.0.0.1:1'}}"
        )
        url = proxy.url.replace("https:", "http:")

        code, out, err = await run(url, command)

        assert (code, out) == (1, "")
        assert err == (
            f"dmap: the connection to {url} broke: Server disconnected; if it has TLS, it is https://...\n"
        )

    async def test_https_where_there_is_none(self, command, proxy: Proxy) -> None:
        """A daemon without TLS that is asked with it is told so."""
        url = proxy.url.replace("http:", "https:")

        code, out, err = await run(url, command)

        assert (code, out) == (1, "")
        assert err.startswith(f"dmap: no TLS with {url} (") and err.endswith("); it may be http://...\n")


@pytest.mark.parametrize("command", ["status --json", "tail --all", "reload"])
async def test_a_reader_that_has_seen_enough(command) -> None:
    """When the reader of its output leaves (`| head`), a command ends without a word."""
    event = b'data: {"type": "config.reloaded"}\n\n'
    told = SSE + chunk(event) + END if command.startswith("tail") else answer(b'{"status": "done"}')
    ours, theirs = os.pipe()
    os.close(ours)
    async with scripted(told) as (daemon, _):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dmap", *command.split()),
            stdout=theirs,
            stderr=asyncio.subprocess.PIPE,
            env={"DMAP_URL": daemon.url},
        )
        os.close(theirs)
        async with asyncio.timeout(HERE_S):
            _, err = await child.communicate()

    assert (child.returncode, err) == (0, b"")


@pytest.mark.parametrize("command", ["status", "reload", "models", "cancel x", "tail", "status --watch"])
async def test_something_else_has_no_such_page(command) -> None:
    """A 404 of another server is told to be no refusal of dmap's."""
    async with scripted(answer(b'{"error": "no such page"}', status="404 Not Found")) as (other, _):
        code, out, err = await run(other.url, *command.split())

    hint = "--url or DMAP_URL says where it is"
    assert (code, out, err) == (
        1,
        "",
        f"dmap: what answers at {other.url} is not dmap (404 Not Found); {hint}\n",
    )


@pytest.mark.parametrize("command", ["status", "reload", "models", "cancel x", "tail", "status --watch"])
async def test_something_else_answers(command) -> None:
    """What is not dmap is told so, not shown."""
    async with scripted(answer(b"<html>")) as (other, _):
        code, out, err = await run(other.url, *command.split())

    assert (code, out, err) == (1, "", f"dmap: what answers at {other.url} is not dmap\n")


@pytest.mark.parametrize("command", ["status", "models", "cancel x", "load x", "drain gpu0", "reload"])
async def test_another_version_answers(command) -> None:
    """JSON of another form than dmap's is told so, too."""
    async with scripted(answer(b'{"data": [{}], "open": [{}]}')) as (other, _):
        code, out, err = await run(other.url, *command.split())

    assert (code, out, err) == (1, "", f"dmap: {other.url} is not dmap, or one of another version\n")


async def test_the_address_as_an_option(proxy: Proxy) -> None:
    """`--url` goes before DMAP_URL."""
    code, out, err = await run("http://127.0.0.1:1", "status", "--url", f"{proxy.url}/v1")

    assert (code, err, out.startswith("dmap ")) == (0, "", True)


@pytest.mark.skipif(bool(why_not("systemd-analyze")), reason=why_not("systemd-analyze"))
@pytest.mark.parametrize("kind", ["service", "timer"])
def test_the_units_that_load(tmp_path, kind) -> None:
    """systemd has nothing to say about the units that load a model by the clock."""
    for unit in SYSTEMD.glob("dmap*"):
        text = unit.read_text().replace("/opt/dmap/bin/python", sys.executable)
        (tmp_path / unit.name.replace("@", "@m")).write_text(text)

    ended = subprocess.run(
        [str(find("systemd-analyze")), "verify", "--man=no", str(tmp_path / f"dmap-load@m.{kind}")],
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=HERE_S,
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


class TestModels:
    def test_the_table(self) -> None:
        """Each model with its backend, whether it is loaded, and what it is besides."""
        one = {"id": "a", "owned_by": "lm", "resident": True, "context_length": 4096, "embedding": False}
        two = {**one, "id": "gpt-4o", "alias_of": "a", "active": True}
        three = {**one, "id": "b", "resident": False, "context_length": None, "embedding": True}

        assert models({"data": [one, two, three]}).splitlines() == [
            "MODEL   BACKEND  LOADED  CONTEXT",
            "a       lm       yes        4096",
            "gpt-4o  lm       yes        4096  alias of a, active",
            "b       lm       -             -  embeddings",
        ]

    async def test_of_a_running_daemon(self, proxy: Proxy) -> None:
        """It lists what /v1/models does."""
        code, out, err = await run(proxy.url, "models")

        assert (code, err) == (0, "")
        assert out.splitlines()[0].split() == ["MODEL", "BACKEND", "LOADED", "CONTEXT"]
        assert out.splitlines()[1].split()[:2] == ["m", "fake"]


class TestCancel:
    @pytest.mark.parametrize("end", ["req_one", "ne"])
    async def test_the_end_of_an_id_will_do(self, end) -> None:
        """The request whose id ends so is ended."""
        queue = answer(b'{"open": [{"id": "req_one"}, {"id": "req_two"}]}')
        done = answer(b'{"status": "cancelled", "id": "req_one"}')
        async with scripted(queue, done) as (daemon, heads):
            code, out, err = await run(daemon.url, "cancel", end)

        assert (code, err, out) == (0, "", "cancelled req_one\n")
        assert heads[1].startswith(b"POST /admin/queue/req_one/cancel HTTP/1.1\r\n")

    async def test_two_that_end_so(self) -> None:
        """Nothing is ended where it is not clear what is meant."""
        async with scripted(answer(b'{"open": [{"id": "req_ae"}, {"id": "req_be"}]}')) as (daemon, heads):
            code, out, err = await run(daemon.url, "cancel", "e")

        assert (code, out, err) == (1, "", "dmap: 2 requests end in 'e': req_ae, req_be\n")
        assert len(heads) == 1

    async def test_of_no_id(self) -> None:
        """An empty id, as of a shell's variable that is not set, ends nothing, if only one is open, too."""
        async with scripted(answer(b'{"open": [{"id": "req_one"}]}')) as (daemon, heads):
            code, out, err = await run(daemon.url, "cancel", "")

        hint = "The end of its id will do, as dmap status shows it"
        assert (code, out, err) == (1, "", f"dmap: which request? {hint}\n")
        assert len(heads) == 1

    async def test_of_a_running_daemon(self, proxy: Proxy) -> None:
        """An id that no request has is told by the daemon."""
        code, out, err = await run(proxy.url, "cancel", "nobody")

        assert (code, out) == (1, "")
        assert err.endswith("refused (404): no request 'nobody' waits or is being answered\n")


class TestOrders:
    @pytest.mark.parametrize(
        ("command", "path", "body"),
        [
            ("load qwen/m", "/admin/models/load", {"modelKey": "qwen/m", "activate": False}),
            ("unload m", "/admin/models/unload", {"modelKey": "m"}),
            ("activate m", "/admin/models/activate", {"modelKey": "m"}),
            ("drain gpu0", "/admin/drain", {"device": "gpu0"}),
            ("resume gpu0", "/admin/resume", {"device": "gpu0"}),
            ("reload", "/admin/reload", {}),
        ],
    )
    async def test_what_is_sent(self, command, path, body) -> None:
        """Each command is one POST of JSON to the admin API; what it answers is summed up."""
        async with scripted(answer(b'{"status": "done"}')) as (daemon, heads):
            code, out, err = await run(daemon.url, *command.split())

        (head,) = heads
        assert (code, err, out.split()[0]) == (0, "", "done")
        assert head.startswith(f"POST {path} HTTP/1.1\r\n".encode())
        assert b"Content-Type: application/json\r\n" in head
        assert f"Content-Length: {len(json.dumps(body))}\r\n".encode() in head

    def test_the_summary(self) -> None:
        """The answer is summed up: what was done, what the model got, what was not applied, what is left."""
        told = {
            "status": "loaded",
            "message": "Well done.",
            "model": "m",
            "backend": "lm",
            "active": True,
            "took_s": 75.0,
            "loaded": {"context_length": 4096, "parallel": None},
            "load_config": {"applied": {"context_length": 4096}, "not_applied": {"gpu": "not over REST"}},
            "default_inference": {"temperature": 0.5, "top_p": 1},
            "workflow": {"step1": "Do this.", "step2": "Then that."},
        }

        assert list(summary(told, "alias")) == [
            "loaded m on lm in 1 min 15 s",
            "  Well done.",
            "  got: context_length 4096",
            "  applied: context_length 4096",
            "  defaults: temperature 0.5, top_p 1",
            "  not applied: gpu: not over REST",
            "  1. Do this.",
            "  2. Then that.",
        ]
