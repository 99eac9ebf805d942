"""The commands that ask a running daemon: what they are called, what they take, how they end."""

import argparse
import asyncio
import json
import os
import sys
from typing import TypeAlias

from dmap.remote.client import Trouble, daemon_of, plain
from dmap.remote.lines import line
from dmap.remote.models import order
from dmap.remote.status import report
from dmap.remote.tail import Tail, follow

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add(commands: _Commands) -> None:
    """Add them to *commands*; each sets `run`, which returns the exit code and raises `Trouble`."""
    _add_tail(commands.add_parser("tail", help="show what happens in a running daemon, as it happens"))
    command = commands.add_parser("status", help="devices, residents, queue and backends of a running daemon")
    command.add_argument("--json", action="store_true", help="all that the daemon tells, as JSON")
    command.set_defaults(run=_status)
    for name, argument, text in (
        ("load", "model", "load a model, and wait until it is there"),
        ("unload", "model", "unload a model once it is idle"),
        ("activate", "model", "choose the model of requests that name none"),
        ("drain", "device", "serve nobody on a device until it is resumed"),
        ("resume", "device", "serve on a device again"),
        ("reload", "", "have a running daemon read its configuration again"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=_order, order=name, argument="")
        if argument:
            command.add_argument("argument", metavar=argument.upper())


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
    tail = Tail(options.type, options.model, options.client, options.after)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def show(event: str) -> None:
        print(plain(event) if options.json else line(json.loads(event), colour=colour), flush=True)

    def say(text: str) -> None:
        print(f"dmap: {text}", file=sys.stderr)

    asyncio.run(follow(daemon_of(os.environ), tail, show, say))
    return 0


def _status(options: argparse.Namespace) -> int:
    daemon = daemon_of(os.environ)
    status = asyncio.run(daemon.get("/debug/status"))
    try:
        print(json.dumps(status, indent=2) if options.json else report(daemon.url, status))
    except (KeyError, TypeError) as exc:
        raise Trouble(f"{daemon.url} is not dmap, or one of another version") from exc
    return 0


def _order(options: argparse.Namespace) -> int:
    print(asyncio.run(order(daemon_of(os.environ), options.order, options.argument)))
    return 0
