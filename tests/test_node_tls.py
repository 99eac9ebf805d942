"""TLS between a front and its node: real certificates, good ones and bad ones, and what is said of them."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dmap.cli import main
from dmap.config import ConfigProblem
from tests.conftest import Proxy
from tests.fakes import WHOLE, FakeBackend, answer, chat, post, soon

FRONT = hashlib.sha256(b"front").hexdigest()
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
SECONDS = 10


def openssl(*command: str) -> None:
    subprocess.run(["openssl", *command], check=True, capture_output=True, timeout=30)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """Make a CA of the fleet's own."""
    return authority_of(tmp_path, "fleet")


def authority_of(folder: Path, name: str) -> Path:
    path = folder / f"{name}.pem"
    openssl(
        "req",
        "-x509",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        *KEY,
        "-keyout",
        f"{path}.key",
        "-out",
        str(path),
    )
    return path


def certificate(authority: Path, name: str = "IP:127.0.0.1", days: int = 2) -> str:
    """Have *authority* sign a certificate of *name*; return `listen.tls` that shows it."""
    cert, key, asked = (authority.parent / f"node.{each}" for each in ("pem", "key", "csr"))
    extension = f"subjectAltName={name}"
    openssl(
        "req",
        "-new",
        "-subj",
        "/CN=node",
        "-addext",
        extension,
        *KEY,
        "-keyout",
        str(key),
        "-out",
        str(asked),
    )
    signs = ("-CA", str(authority), "-CAkey", f"{authority}.key", "-copy_extensions", "copy")
    openssl("x509", "-req", "-in", str(asked), *signs, "-days", str(days), "-out", str(cert))
    return f"{{cert: '{cert}', key: '{key}'}}"


async def node_of(start: Callable[[str], Any], backend: FakeBackend, tls: str) -> Proxy:
    """Run a node that shows the certificate of *tls*."""
    backend.script = lambda exchange: exchange.end(answer(WHOLE))
    keys = f"[{{name: fronts, sha256: {FRONT}, scopes: [front]}}]"
    proxy: Proxy = await start(
        f"listen: {{tls: {tls}}}\naccess: {{keys: {keys}}}\n"
        f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}"
    )
    return proxy


def front_of(url: str, authority: Path | None) -> str:
    """Write the configuration of a front of the node at *url*."""
    ca = f", ca: '{authority}'" if authority is not None else ""
    return f"nodes: {{box1: {{url: '{url}', api_key: front{ca}}}}}"


async def test_a_ca_of_ones_own(start, backend, authority):
    """A front that is told the fleet's own CA asks a node that shows a certificate of that."""
    node = await node_of(start, backend, certificate(authority))
    front = await start(front_of(node.url, authority))
    await soon(lambda: front.proxy.inventory.answering == ["box1"], SECONDS)
    client = await front.client()

    await client.send(post(chat(stream=False)))

    assert (await client.answer()).body == WHOLE


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"days": -1}, "its certificate has expired"),
        ({"name": "IP:10.9.8.7"}, "its certificate is for another name than that in its url"),
        ({"name": "DNS:box1.lan"}, "its certificate is for another name than that in its url"),
    ],
    ids=["expired", "another address", "another name"],
)
async def test_a_bad_certificate(start, backend, authority, caplog, said, words):
    """What is wrong with a certificate is said in plain words, in the log, by /ready and to a client."""
    node = await node_of(start, backend, certificate(authority, **said))
    front = await start(front_of(node.url, authority))
    await soon(lambda: "backend_down" in caplog.text, SECONDS)
    client = await front.client()

    await client.send(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
    ready = await client.answer()
    await client.send(post(chat(stream=False)))
    refused = await client.answer()

    assert ready.head.status == refused.head.status == 503
    assert json.loads(ready.body)["backends"]["box1"]["reason"].endswith(words)
    error = json.loads(refused.body)["error"]
    assert (error["code"], words in error["message"]) == ("backend_down", True)
    assert "127.0.0.1" not in error["message"]
    assert "10.9.8.7" not in error["message"]
    assert words in caplog.text
    assert refused.head.headers["retry-after"].isdecimal()


@pytest.mark.parametrize("known", ["other", None])
async def test_a_ca_that_is_not_trusted(start, backend, authority, tmp_path, caplog, known):
    """A certificate of a CA that the front was not told is not trusted, and nothing is sent there."""
    other = authority_of(tmp_path, "other")
    node = await node_of(start, backend, certificate(authority))

    await start(front_of(node.url, {"other": other, None: None}[known]))
    await soon(lambda: "backend_down" in caplog.text, SECONDS)

    assert "its certificate is not trusted here" in caplog.text
    assert backend.requests == []


async def test_no_tls_there(start, backend, caplog):
    """What answers in plain text where https was said is no node, and that is said."""
    node = await node_of(start, backend, "null")

    await start(front_of(node.url.replace("http:", "https:"), None))
    await soon(lambda: "backend_down" in caplog.text, SECONDS)

    assert "what answers there does not speak TLS" in caplog.text


async def test_a_file_that_is_none(start, tmp_path):
    """A `ca` that cannot be read, or has no certificate, keeps dmap from starting."""
    (tmp_path / "empty.pem").write_text("nothing")

    with pytest.raises(ConfigProblem, match=r"^nodes\.box1\.ca: .*empty.pem: no certificate in PEM$"):
        await start(front_of("https://10.0.0.1", tmp_path / "empty.pem"))
    with pytest.raises(ConfigProblem, match=r"^nodes\.box1\.ca: .*none.pem: cannot be read: No such file"):
        await start(front_of("https://10.0.0.1", tmp_path / "none.pem"))


def test_check_config_tells(tmp_path, capsys):
    """`dmap check-config` says at which line what is wrong with a `ca`."""
    (tmp_path / "config.yaml").write_text(front_of("https://10.0.0.1", tmp_path / "none.pem"))

    assert main(["check-config", str(tmp_path / "config.yaml")]) == 78
    assert "nodes.box1.ca" in capsys.readouterr().err
