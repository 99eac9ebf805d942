"""The proxies that are compared: how each is set up, started on its core, and ended."""

import hashlib
import json
import os
import secrets
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template

from machine import confined_to, find_program, free_port, user_directive, with_children
from peer import Door, Figures, Peer, read_port

_ROOT = Path(__file__).parent.parent
_READY_S = 20
_STOP_S = 30  # dmap drains for `server.shutdown_s`

_NGINX = Template("""\
$user
daemon off;
pid $folder/nginx.pid;
error_log $folder/nginx.log error;
worker_processes 1;
worker_rlimit_nofile 8192;
events { worker_connections 8192; }
http {
    access_log off;
    client_body_temp_path $folder/body;
    proxy_temp_path $folder/proxy;
    fastcgi_temp_path $folder/fastcgi;
    uwsgi_temp_path $folder/uwsgi;
    scgi_temp_path $folder/scgi;
    keepalive_requests 10000000;
    upstream model { server 127.0.0.1:$upstream; keepalive 2048; keepalive_requests 10000000; }
    server {
        listen 127.0.0.1:$port backlog=1024;
        location / {
            proxy_pass http://model;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 600s;
        }
    }
}
""")

_DMAP = Template("""\
listen: {host: 127.0.0.1, port: $port}
backends:
  up: {kind: openai, url: "$url"}
""")

# All that a request can meet. The context is so short that every prompt is measured, but long enough for it.
_FEATURES = """\
defaults: {top_p: 0.9, max_tokens: 2048, seed: 7}
models:
  bench:
    aliases: [gpt-4o-mini]
    defaults: {top_k: 20, min_p: 0.05, repeat_penalty: 1.1, stop: ["</answer>"]}
    force: {temperature: 0.3}
    strip: [logit_bias, user]
    load: {context_length: 950}
allow_models: ["bench*", "other*"]
debug: {ring: 2000, capture: false}
access:
  allow: [127.0.0.0/8]
  keys:
"""
_KEY = Template("""\
    - name: $name
      sha256: $sha256
      scopes: [inference, debug]
      models: ["other*", "bench*"]
      parallel: 100000
      rate_per_min: 100000000
      expires: 2100-01-01
""")
_KEYS = 20
_READERS = 2
_SCRAPE_S = 5


class Absent(Exception):
    """A proxy cannot take part; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all proxies are started on: their core, the model server behind them, a folder for files."""

    core: int
    peer: Peer
    folder: Path

    def launch(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[str]:
        """Start *command* on the proxy's core, with its messages in a file."""
        with (self.folder / f"{name}.err").open("w") as messages:
            return subprocess.Popen(
                command,
                cwd=_ROOT,
                stdout=subprocess.PIPE if name == "go" else messages,
                stderr=messages,
                text=True,
                env={**os.environ, **environment},
                preexec_fn=confined_to(self.core),
            )


@dataclass(slots=True)
class Contender:
    """A proxy that answers at *door*, with the *readers* of its debug stream. Its owner stops it."""

    name: str
    door: Door
    process: subprocess.Popen[str]
    readers: list[subprocess.Popen[str]] = field(default_factory=list)

    def pids(self) -> list[int]:
        """Return the process and its descendants: all of them are counted."""
        return with_children(self.process.pid)

    def dismiss(self) -> list[Figures]:
        """Send the readers away and return what they tell of themselves. Idempotent."""
        told = [json.loads(reader.communicate()[0] or "{}") for reader in self.readers]
        self.readers.clear()
        return told

    def stop(self) -> None:
        """End the proxy, politely first. Idempotent."""
        self.dismiss()
        self.process.terminate()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def start(name: str, ground: Ground) -> Contender:
    """Start the proxy *name* and return it once it relays; raise `Absent` if it cannot."""
    contender = KINDS[name](ground)
    try:
        _wait_until_relaying(contender, ground)
    except BaseException:
        contender.stop()
        raise
    return contender


def _start_dmap(ground: Ground) -> Contender:
    port = free_port()
    return _serve("dmap", Door(port), _DMAP.substitute(port=port, url=ground.peer.url), ground)


def _start_unwatched(ground: Ground) -> Contender:
    """Start dmap with every feature but without readers of its debug stream."""
    return _featured("dmap-unwatched", ground)


def _featured(name: str, ground: Ground) -> Contender:
    """Start dmap with all that `_FEATURES` switches on; the last of its keys is that of the clients."""
    port, keys = free_port(), [secrets.token_urlsafe(32) for _ in range(_KEYS)]
    lines = [_KEY.substitute(name=f"client{number}", sha256=_sha256(key)) for number, key in enumerate(keys)]
    plain = _DMAP.substitute(port=port, url=ground.peer.url)
    return _serve(name, Door(port, keys[-1]), plain + _FEATURES + "".join(lines), ground)


def _start_all(ground: Ground) -> Contender:
    """Start the same with readers of its debug stream, the first of which asks for the metrics too."""
    contender = _featured("dmap-all", ground)
    for number in range(_READERS):
        contender.readers.append(ground.peer.watch(contender.door, scrape_s=0 if number else _SCRAPE_S))
    return contender


def _start_traced(ground: Ground) -> Contender:
    """Start dmap with the traces of a tenth of its requests, for a collector that takes and drops them."""
    collector = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    port = free_port()
    plain = _DMAP.substitute(port=port, url=ground.peer.url)
    traces = f"traces: {{url: 'http://127.0.0.1:{collector.server_port}', share: 0.1}}\n"
    return _serve("dmap-traced", Door(port), plain + traces, ground)


class _Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def _serve(name: str, door: Door, config: str, ground: Ground) -> Contender:
    folder = ground.folder / str(door.port)
    folder.mkdir()
    (folder / "dmap.yaml").write_text(config)
    command = [sys.executable, "-m", "dmap", "serve", str(folder / "dmap.yaml")]
    return Contender(name, door, ground.launch(name, command, STATE_DIRECTORY=str(folder)))


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _start_nginx(ground: Ground) -> Contender:
    program = find_program("nginx")
    if program is None:
        raise Absent("nginx not found (Debian: `apt-get install nginx-light`)")
    port = free_port()
    values = {"user": user_directive(), "folder": ground.folder, "port": port, "upstream": ground.peer.port}
    config = ground.folder / "nginx.conf"
    config.write_text(_NGINX.substitute(values))
    errors = str(ground.folder / "nginx.log")
    return Contender("nginx", Door(port), ground.launch("nginx", [program, "-e", errors, "-c", str(config)]))


def _start_go(ground: Ground) -> Contender:
    command = [str(ground.peer.program), "proxy", "-to", ground.peer.url]
    process = ground.launch("go", command, GOMAXPROCS="1")
    return Contender("go", Door(read_port(process)), process)


def _start_naive(ground: Ground) -> Contender:
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("naive.py")), str(port), ground.peer.url]
    return Contender("naive", Door(port), ground.launch("naive", command))


KINDS: dict[str, Callable[[Ground], Contender]] = {
    "dmap": _start_dmap,
    "dmap-all": _start_all,
    "dmap-traced": _start_traced,
    "dmap-unwatched": _start_unwatched,
    "nginx": _start_nginx,
    "go": _start_go,
    "naive": _start_naive,
}


def _wait_until_relaying(contender: Contender, ground: Ground) -> None:
    last_s = time.monotonic() + _READY_S
    while not _relays(contender.door):
        if contender.process.poll() is not None or time.monotonic() > last_s:
            raise Absent(f"{contender.name} did not start: {_last_words(contender.name, ground.folder)}")
        time.sleep(0.05)


def _relays(door: Door) -> bool:
    ask = urllib.request.Request(
        f"http://127.0.0.1:{door.port}/v1/chat/completions",
        data=b'{"model":"bench","messages":[{"role":"user","content":"ready?"}],"temperature":1,"user":"me"}',
        headers={"Content-Type": "application/json", **door.headers()},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(ask, timeout=5) as answer:
            return b'"chat.completion"' in answer.read()
    except (urllib.error.URLError, OSError):
        return False


def _last_words(name: str, folder: Path) -> str:
    lines = (folder / f"{name}.err").read_text(errors="replace").split("\n")
    return " / ".join(line.strip() for line in lines if line.strip())[-300:] or "no message"
