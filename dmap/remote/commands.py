"""The commands that ask a running daemon: what they are called, what they take, what they print."""

import argparse
import asyncio
import functools
import json
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import quote

from dmap.remote.client import DaemonClient, daemon_of, plain
from dmap.remote.lines import line
from dmap.remote.logs import show_log
from dmap.remote.pages import models, report, summary, the_one
from dmap.remote.tail import follow
from dmap.remote.watch import shown, watch

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

    def named(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text)
        command.add_argument("--url", metavar="URL", help="where the daemon is, instead of DMAP_URL")
        return command

    _add_tail(named("tail", "show what happens in a running daemon, as it happens"))
    command = named("logs", "show what the server of a model has written")
    command.add_argument("model", metavar="MODEL")
    command.add_argument(
        "-f", "--follow", action="store_true", help="go on with what it writes, until Ctrl-C"
    )
    command.set_defaults(run=_logs)
    command = named("status", "devices, residents, queue and backends of a running daemon")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="all that the daemon tells, as JSON")
    form.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    command.set_defaults(run=_status)
    named("models", "the models of a running daemon, and which of them are loaded").set_defaults(run=_models)
    command = named("cancel", "end a request that waits or is answered")
    command.add_argument("id", metavar="ID", help="its id, or the end of it, as `status` and `tail` show it")
    command.set_defaults(run=_cancel)
    for name, path, field, text in _ORDERS:
        command = named(name, text)
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
        shown = plain(event) if options.json else line(json.loads(event), colour=colour, width=_width())
        print(shown, flush=True)

    asyncio.run(follow(_daemon(options), wanted, options.after, show, _say))
    return 0


def _logs(options: argparse.Namespace) -> int:
    def show(line: str) -> None:
        print(plain(line), flush=True)

    asyncio.run(show_log(_daemon(options), options.model, show, _say, follow=options.follow))
    return 0


def _say(text: str) -> None:
    print(f"dmap: {text}", file=sys.stderr)


def _daemon(options: argparse.Namespace) -> DaemonClient:
    return daemon_of(os.environ, options.url)


def _width() -> int:
    """Return the columns of the terminal, or what COLUMNS says; 0 where nobody says."""
    return shutil.get_terminal_size((0, 0)).columns


def _status(options: argparse.Namespace) -> int:
    daemon = _daemon(options)

    def show(status: Any) -> str:
        return json.dumps(status, indent=2) if options.json else report(daemon.url, status, _width())

    if options.watch:
        asyncio.run(watch(daemon, "/debug/status", show, functools.partial(print, flush=True), _say))
    print(_said(daemon, "/debug/status", show))
    return 0


def _models(options: argparse.Namespace) -> int:
    print(_said(_daemon(options), "/v1/models", lambda listed: models(listed, _width())))
    return 0


def _said(daemon: DaemonClient, path: str, show: Callable[[Any], str]) -> str:
    """Return what *show* makes of what is at *path*."""
    return shown(daemon, asyncio.run(daemon.ask(path)), show)


def _cancel(options: argparse.Namespace) -> int:
    """End the one request that waits or is answered and whose id ends as was said."""
    daemon = _daemon(options)
    queue = asyncio.run(daemon.ask("/admin/queue"))
    id = shown(daemon, queue, lambda told: the_one(told, options.id))
    answer = asyncio.run(daemon.ask(f"/admin/queue/{quote(id, safe='')}/cancel", {}))
    print(_summed_up(daemon, answer, id))
    return 0


def _order(options: argparse.Namespace) -> int:
    """Give an order, and wait as long as it takes to be carried out."""
    order: dict[str, Any] = {options.field: options.argument} if options.field else {}
    if options.path == "/admin/models/load":
        order["activate"] = False  # to have a model ready is not to choose it; `dmap activate` does
    daemon = _daemon(options)
    answer = asyncio.run(daemon.ask(options.path, order))
    print(_summed_up(daemon, answer, options.argument))
    return 0


def _summed_up(daemon: DaemonClient, answer: Any, argument: str) -> str:
    """Return what is to be shown of the *answer* to an order; another server's 200 means nothing."""
    return shown(daemon, answer, lambda told: "\n".join(map(plain, summary(told, argument))))
