"""The commands that ask a running daemon: what they are called, what they take, what they print."""

import argparse
import asyncio
import json
import os
import sys
from typing import Any, TypeAlias

from dmap.remote.client import Trouble, daemon_of, plain
from dmap.remote.lines import line
from dmap.remote.logs import show_log
from dmap.remote.pages import report, summary
from dmap.remote.tail import follow

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_ORDERS = (
    ("load", "/admin/models/load", "modelKey", "load a model, and wait until it is there"),
    ("unload", "/admin/models/unload", "modelKey", "unload a model once it is idle"),
    ("activate", "/admin/models/activate", "modelKey", "choose the model of requests that name none"),
    ("drain", "/admin/drain", "device", "serve nobody on a device until it is resumed"),
    ("resume", "/admin/resume", "device", "serve on a device again"),
    ("reload", "/admin/reload", None, "have a running daemon read its configuration again"),
)
"""For each order its command, its path, what its argument is called there, and its help."""


def add(commands: _Commands) -> None:
    """Add them to *commands*; each sets `run`, which returns the exit code and raises `Trouble`."""
    _add_tail(commands.add_parser("tail", help="show what happens in a running daemon, as it happens"))
    command = commands.add_parser("logs", help="show what the server of a model has written")
    command.add_argument("model", metavar="MODEL")
    command.add_argument(
        "-f", "--follow", action="store_true", help="go on with what it writes, until Ctrl-C"
    )
    command.set_defaults(run=_logs)
    command = commands.add_parser("status", help="devices, residents, queue and backends of a running daemon")
    command.add_argument("--json", action="store_true", help="all that the daemon tells, as JSON")
    command.set_defaults(run=_status)
    for name, path, field, text in _ORDERS:
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=_order, path=path, field=field, argument="")
        if field is not None:
            command.add_argument("argument", metavar=field.removesuffix("Key").upper())


def _add_tail(command: argparse.ArgumentParser) -> None:
    for flag, text in (
        ("type", "only these types of events, such as request.failed, switch or '*.failed'"),
        ("model", "only what is about these models; globs"),
        ("client", "only what these clients do; globs"),
    ):
        command.add_argument(f"--{flag}", action="append", default=[], metavar=flag.upper(), help=text)
    begin = command.add_mutually_exclusive_group()
    begin.add_argument("--after", type=_number, metavar="N", help="begin after event N, as far as it is kept")
    begin.add_argument("--all", action="store_const", dest="after", const=0, help="begin with all there is")
    command.add_argument("--json", action="store_true", help="one JSON object per event, as it was sent")
    command.set_defaults(run=_tail)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError("the number of an event is 0 or more")
    return int(text)


def _tail(options: argparse.Namespace) -> int:
    wanted = {name: getattr(options, name) for name in ("type", "model", "client")}
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def show(event: str) -> None:
        print(plain(event) if options.json else line(json.loads(event), colour=colour), flush=True)

    asyncio.run(follow(daemon_of(os.environ), wanted, options.after, show, _say))
    return 0


def _logs(options: argparse.Namespace) -> int:
    def show(line: str) -> None:
        print(plain(line), flush=True)

    asyncio.run(show_log(daemon_of(os.environ), options.model, show, _say, follow=options.follow))
    return 0


def _say(text: str) -> None:
    print(f"dmap: {text}", file=sys.stderr)


def _status(options: argparse.Namespace) -> int:
    daemon = daemon_of(os.environ)
    status = asyncio.run(daemon.ask("/debug/status"))
    try:
        print(json.dumps(status, indent=2) if options.json else report(daemon.url, status))
    except (KeyError, TypeError) as exc:
        raise Trouble(f"{daemon.url} is not dmap, or one of another version") from exc
    return 0


def _order(options: argparse.Namespace) -> int:
    """Give an order, and wait as long as it takes to be carried out."""
    order: dict[str, Any] = {options.field: options.argument} if options.field else {}
    if options.path == "/admin/models/load":
        order["activate"] = False  # to have a model ready is not to choose it; `dmap activate` does
    answer = asyncio.run(daemon_of(os.environ).ask(options.path, order))
    print("\n".join(plain(each) for each in summary(answer, options.argument)))
    return 0
