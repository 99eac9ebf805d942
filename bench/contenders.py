"""The proxies that are compared: how each is set up, started on its core, and ended."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from machine import confined_to, find_program, free_port, user_directive, with_children
from peer import Peer, read_port

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


@dataclass(frozen=True, slots=True)
class Contender:
    """A proxy that answers on *port*. Its owner stops it."""

    name: str
    port: int
    process: subprocess.Popen[str]

    def pids(self) -> list[int]:
        """Return the process and its descendants: all of them are counted."""
        return with_children(self.process.pid)

    def stop(self) -> None:
        """End the proxy, politely first. Idempotent."""
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
    config = ground.folder / "dmap.yaml"
    config.write_text(_DMAP.substitute(port=port, url=ground.peer.url))
    command = [sys.executable, "-m", "dmap", "serve", str(config)]
    process = ground.launch("dmap", command, STATE_DIRECTORY=str(ground.folder))
    return Contender("dmap", port, process)


def _start_nginx(ground: Ground) -> Contender:
    program = find_program("nginx")
    if program is None:
        raise Absent("nginx not found (Debian: `apt-get install nginx-light`)")
    port = free_port()
    values = {"user": user_directive(), "folder": ground.folder, "port": port, "upstream": ground.peer.port}
    config = ground.folder / "nginx.conf"
    config.write_text(_NGINX.substitute(values))
    errors = str(ground.folder / "nginx.log")
    return Contender("nginx", port, ground.launch("nginx", [program, "-e", errors, "-c", str(config)]))


def _start_go(ground: Ground) -> Contender:
    command = [str(ground.peer.program), "proxy", "-to", ground.peer.url]
    process = ground.launch("go", command, GOMAXPROCS="1")
    return Contender("go", read_port(process), process)


def _start_naive(ground: Ground) -> Contender:
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("naive.py")), str(port), ground.peer.url]
    return Contender("naive", port, ground.launch("naive", command))


KINDS: dict[str, Callable[[Ground], Contender]] = {
    "dmap": _start_dmap,
    "nginx": _start_nginx,
    "go": _start_go,
    "naive": _start_naive,
}


def _wait_until_relaying(contender: Contender, ground: Ground) -> None:
    last_s = time.monotonic() + _READY_S
    while not _relays(contender.port):
        if contender.process.poll() is not None or time.monotonic() > last_s:
            raise Absent(f"{contender.name} did not start: {_last_words(contender.name, ground.folder)}")
        time.sleep(0.05)


def _relays(port: int) -> bool:
    ask = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        data=b'{"model":"bench","messages":[{"role":"user","content":"ready?"}]}',
        headers={"Content-Type": "application/json"},
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
