#!/usr/bin/env -S python3 -S
"""
The `lms` command without LM Studio: a client of the emulated server, with the traps of the real one.

It needs only the standard library, so it starts fast.  Where the real one opens a WebSocket on the server's
port, this one posts to `/emulated-ws/...` there, which `test_lms.Studio` serves.  Sources: lms
src/subcommands/*.ts and src/createClient.ts, 2026-08.  Its home is `$HOME/.lmstudio`: `emulated.json` there
sets `quirks`, `calls` gets a line of JSON for each call, and `started` appears when a call would have started
another LM Studio.
"""

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

HOME = Path(os.environ["HOME"]) / ".lmstudio"


def main(given: Sequence[str]) -> int:
    """Run one command."""
    quirks = json.loads((HOME / "emulated.json").read_text()) if (HOME / "emulated.json").exists() else []
    with (HOME / "calls").open("a") as calls:
        calls.write(json.dumps({"argv": list(given), "pid": os.getpid(), "env": dict(os.environ)}) + "\n")
    if "no_exact" in quirks and "--exact" in given:  # what commander says of an option it does not know
        fail("error: unknown option '--exact'")
    arguments = parser().parse_args(given)
    if "noisy" in quirks:
        sys.stderr.write("\x1b[?25l⠋ Loading\r" * 40_000)
    return int(arguments.run(arguments, Server(arguments), quirks))


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="lms")
    commands = whole.add_subparsers(required=True)
    for name, run in (("load", load), ("unload", unload), ("ps", ps), ("ls", ls), ("server", status)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("name", nargs="?")
        for option in ("--host", "--gpu", "--identifier"):
            command.add_argument(option)
        for option in ("--port", "--context-length", "--parallel", "--ttl"):
            command.add_argument(option, type=int)
        for option in ("--json", "--exact", "--all"):
            command.add_argument(option, action="store_true")
        command.add_argument("-y", "--yes", action="store_true")
    return whole


class Server:
    """The server that a call is for, found as `createClient` does."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        host = arguments.host or "127.0.0.1"
        if ":" in host:
            fail("Host should not include the port number. Use --port instead.")
        if arguments.port is None and host == "127.0.0.1":  # also when --host says so
            (HOME / "started").touch()
            fail("Failed to start or connect to local LM Studio API server.")
        self.address = (host, arguments.port or 1234)
        try:
            greets = b'{"lmstudio": true}' in self._http("GET", "/lmstudio-greeting", timeout_s=10)[1]
        except OSError:
            greets = False
        if not greets:
            fail(f"The server does not appear to be running at {host}:{arguments.port}. Please make sure")

    def ask(self, path: str, **body: Any) -> Any:
        try:
            status, answer = self._http("POST", f"/emulated-ws/{path}", json.dumps(body).encode())
        except OSError as error:
            fail(f"Error: {error}")
        if status != b"200":
            fail(f"Error: {answer.decode() or 'the connection was lost'}")
        return json.loads(answer)

    def _http(
        self, method: str, path: str, body: bytes = b"", timeout_s: float | None = None
    ) -> tuple[bytes, bytes]:
        """Ask by hand, for `urllib` takes longer to import than all the rest; return status and body."""
        token = f"Authorization: Bearer {os.environ.get('LM_API_TOKEN')}\r\n" if body else ""
        head = (
            f"{method} {path} HTTP/1.0\r\n{token}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection(self.address, timeout_s) as connection:
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(lambda: connection.recv(2**16), b""))
        said, _, rest = answer.partition(b"\r\n\r\n")
        return b"".join(said.split()[1:2]), rest


def load(arguments: argparse.Namespace, server: Server, quirks: list[str]) -> int:
    """Choose by exact path, else fuzzily by key; then load, cancelling on SIGINT."""
    models = server.ask("ls")
    if arguments.exact:
        found = [one for one in models if one["path"] == arguments.name]
    else:
        found = sorted(
            (one for one in models if fuzzily(arguments.name or "", one["modelKey"])),
            key=lambda one: one["modelKey"] != arguments.name or "misses" in quirks,
        )
    if not found:
        fail(f'Model not found\n\nNo model found that matches model key "{arguments.name}".\n')
    if not (arguments.exact or arguments.yes or len(found) == 1):
        print("! Multiple models match the provided model key. Please select one.")
        fail(f"cancelled: {input()}")
    if "idle" in quirks:  # it ends well, and nothing is loaded
        return 0
    chosen = found[0]["modelKey"]

    def cancel(*_: object) -> NoReturn:
        if "stubborn" in quirks:
            time.sleep(60)
        server.ask("cancel", key=chosen)
        fail("Load cancelled.")

    signal.signal(signal.SIGINT, cancel)
    sys.stderr.write(f"\x1b[?25l⠙ Loading {chosen}\r\x1b[K\x1b[?25h")
    sys.stderr.flush()
    config = {
        "context_length": arguments.context_length,
        "gpu": arguments.gpu,
        "parallel": arguments.parallel,
    }
    given = {option: value for option, value in config.items() if value is not None}
    answer = server.ask(
        "load", key=chosen, identifier=arguments.identifier, ttl_s=arguments.ttl, config=given
    )
    print(f'Model loaded successfully.\n\nTo use the model, use the identifier "{answer["identifier"]}".')
    return 0


def fuzzily(pattern: str, text: str) -> bool:
    """Tell whether the letters of *pattern* come in *text* in their order, as npm's `fuzzy` does."""
    rest = iter(text.lower())
    return all(letter in rest for letter in pattern.lower())


def unload(arguments: argparse.Namespace, server: Server, quirks: list[str]) -> int:
    """Unload by exact identifier; an unknown one is told, with status 0."""
    loaded = [one["identifier"] for one in server.ask("ps")]
    if arguments.name not in loaded and not arguments.all:
        sys.stderr.write(f'Model Not Found\n\nCannot find a model with the identifier "{arguments.name}".\n')
        return 0
    for identifier in loaded if arguments.all else [arguments.name]:
        server.ask("unload", identifier=identifier)
        print(f'Model "{identifier}" unloaded.')
    return 0


def ps(arguments: argparse.Namespace, server: Server, quirks: list[str]) -> int:
    print(json.dumps(server.ask("ps")))
    return 0


def ls(arguments: argparse.Namespace, server: Server, quirks: list[str]) -> int:
    print("[{" if "garbled" in quirks else json.dumps(server.ask("ls")))
    return 0


def status(arguments: argparse.Namespace, server: Server, quirks: list[str]) -> int:
    print(json.dumps({"running": True, "port": server.address[1]}))
    return 0


def fail(words: str) -> NoReturn:
    sys.stderr.write(f"\x1b[31m{words}\x1b[39m\n")
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
