"""`docs/fleet.md`: its commands make certificates that all parts take, and its files are what they say."""

import hashlib
import re
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from dmap.config import parse
from tests.fakes import FakeBackend
from tests.programs import find, why_not
from tests.test_recipes import free_port

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "fleet.md").read_text()
CERTIFICATES, BOX = re.findall(r"^```sh\n(.*?openssl.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NODE, FRONT = re.findall(r"^```yaml\n(listen: .*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SERVERS = re.findall(r"^    server (front\d) \S+ (ssl .*)$", PAGE, re.MULTILINE)
(DOOR,) = re.findall(r"`bind :443 (ssl crt \S+ .*?)`", PAGE)
SHA = hashlib.sha256(b"front").hexdigest()

needs_openssl = pytest.mark.skipif(bool(why_not("openssl")), reason=why_not("openssl"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The owner's folder, with what the page's commands make there for a box on loopback."""
    script = f"set -e\n{CERTIFICATES}\n{BOX}".replace("10.0.0.11", "127.0.0.1")
    subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    return tmp_path


@needs_openssl
def test_certificates(folder: Path) -> None:
    """OpenSSL has nothing to say against them, however strict it is, and nobody else can read a key."""
    strict = [find("openssl"), "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "fleet-ca.pem"]
    ways = (["-verify_ip", "127.0.0.1"], ["-verify_hostname", "box1"])
    checked = [
        subprocess.run([*map(str, strict), *way, "box1.pem"], cwd=folder, capture_output=True, timeout=30)
        for way in ways
    ]

    assert [each.returncode for each in checked] == [0, 0]
    assert {path.name: path.stat().st_mode & 0o077 for path in folder.glob("*.key")} == {
        "fleet-ca.key": 0,
        "box1.key": 0,
    }


@needs_openssl
async def test_over_tls(folder: Path, start: Any, backend: FakeBackend) -> None:
    """With them a front asks a node, and OpenAI's client a front."""
    backend.script = backend.finish
    tls = f"listen: {{tls: {{cert: {folder}/box1.pem, key: {folder}/box1.key}}}}"
    keys = f"access: {{keys: [{{name: fronts, sha256: {SHA}, scopes: [front]}}]}}"
    node = await start(f"{tls}\n{keys}\nbackends: {{fake: {{kind: openai, url: '{backend.url}'}}}}")
    box1 = f"{{url: '{node.daemon.url}', api_key: front, ca: {folder}/fleet-ca.pem}}"
    front = await start(f"{tls}\nnodes: {{box1: {box1}}}")

    trusting = DefaultAsyncHttpxClient(verify=ssl.create_default_context(cafile=folder / "fleet-ca.pem"))
    async with AsyncOpenAI(base_url=f"{front.daemon.url}/v1", api_key="none", http_client=trusting) as client:
        said = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        pieces = [piece async for piece in said]

    assert node.daemon.url.startswith("https://") and pieces


@pytest.mark.parametrize("text", [NODE, FRONT], ids=["node", "front"])
def test_files(text: str, tmp_path: Path) -> None:
    """Both files are configurations, and name no secret but as a variable."""
    given = {name: hashlib.sha256(name.encode()).hexdigest() for name in re.findall(r"\$\{(\w+)}", text)}

    assert parse(text.replace("/srv/models", str(tmp_path)), given).listen.tls is not None
    assert not re.search(r"[0-9a-f]{64}", text)


@needs_openssl
@pytest.mark.skipif(bool(why_not("haproxy")), reason=why_not("haproxy"))
def test_haproxy(folder: Path) -> None:
    """HAProxy takes its file with the lines for TLS in the place of its own."""
    text = (ROOT / "ops" / "haproxy.cfg").read_text()
    (folder / "door.pem").write_bytes((folder / "box1.pem").read_bytes() + (folder / "box1.key").read_bytes())
    for name, options in SERVERS:
        own = f'    server {name} "${{{name.upper()}}}"'
        text = text.replace(own, f"    server {name} 127.0.0.1:1 {options}")
    text = text.replace('bind "${DOOR}" tcp-ut 60s', f"bind 127.0.0.1:{free_port()} {DOOR}")
    (folder / "haproxy.cfg").write_text(text.replace("/etc/haproxy", str(folder)))
    command = [find("haproxy") or "haproxy", "-c", "-f", "haproxy.cfg"]
    checked = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30)

    assert len(SERVERS) == 2 and text.count("verify required") == 2 and "crt /etc" in text
    assert checked.returncode == 0, checked.stderr
