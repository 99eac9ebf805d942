"""The command line."""

import argparse
import functools
import gc
import logging
import os
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from dmap import __version__, demo, simulate, tls, tokens
from dmap.access import keys
from dmap.config import ConfigProblem, load, warnings_of
from dmap.daemon import serve
from dmap.lines import Lines
from dmap.remote import commands as remote
from dmap.remote.client import Trouble

EX_CONFIG = 78
"""`EX_CONFIG` of sysexits.h; systemd is told not to restart after it."""
EX_INTERRUPTED = 130
"""What a shell makes of SIGINT: 128 and its number."""

_EXIT_CODES = """\
exit codes: 0 all is well; 1 it could not be done, the last line says why; 2 the command line is wrong;
78 the configuration is wrong; 130 interrupted.  The commands that ask a running daemon find it by DMAP_URL
(http://127.0.0.1:8000) and show it the key in DMAP_KEY.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that *argv* names; return its exit code."""
    try:
        options = _parser().parse_args(argv)
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except ConfigProblem as exc:
        for problem in exc.problems:
            print(f"dmap: {problem}", file=sys.stderr)
        return EX_CONFIG
    except Trouble as exc:
        print(f"dmap: {exc}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # who read our output has seen enough; nor shall the exit flush into nothing
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as exc:
        print(f"dmap: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return EX_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dmap", description="One fair door in front of your model servers.", epilog=_EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"dmap {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, help_text in (
        ("serve", _serve, "run the proxy"),
        ("check-config", _check, "tell what is wrong with a configuration file; exit 78 if anything is"),
    ):
        command = commands.add_parser(name, help=help_text)
        command.add_argument("config", type=Path, metavar="FILE", help="the configuration, YAML")
        command.set_defaults(run=run)
    command = commands.add_parser("demo", help="two tiny real models behind one door")
    command.add_argument("--port", type=int, default=8000, help="where to listen on loopback (8000)")
    command.set_defaults(run=_demo)
    command = commands.add_parser("simulate", help="the queue's policy against plain ones, in virtual time")
    command.set_defaults(run=_simulate)
    remote.add(commands)
    _add_key(commands.add_parser("key", help="API keys").add_subparsers(required=True, metavar="COMMAND"))
    return parser


def _add_key(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "new",
        help="make a key, and the line that the configuration needs",
        usage="dmap key new [-h] NAME [--scopes SCOPE,...] [--models MODEL,...]",
    )
    name = "what the client is called, in logs and in the queue"
    command.add_argument("name", nargs="?", metavar="NAME", help=name)
    for option, help_text in (
        ("--scopes", "what it may do: inference, debug, admin (inference)"),
        ("--models", "globs of the models that it may use (*)"),
    ):
        command.add_argument(
            option,
            dest="given",
            action="append",
            nargs="+",
            default=[],
            type=functools.partial(_said, option),
            metavar=option[2:-1].upper(),
            help=f"{help_text}; several with commas",
        )
    command.set_defaults(run=_new_key, refuse=command.error)


def _said(option: str, text: str) -> tuple[str, str]:
    return option, text


def _serve(options: argparse.Namespace) -> int:
    config = load(options.config)
    _log_to_stderr(logging.INFO)
    try:
        _collect_seldom()
        return uvloop.run(serve(config, read_again=lambda: load(options.config)))
    except socket.gaierror as exc:
        raise OSError(f"listen.host: {config.listen.host}: {exc.strerror}") from exc


def _check(options: argparse.Namespace) -> int:
    config = load(options.config)
    if config.listen.tls is not None:
        tls.check(config.listen.tls)
    tokens.counters(config)
    for warning in warnings_of(config, datetime.now(UTC)):
        print(f"dmap: warning: {warning}", file=sys.stderr)
    print(f"{options.config}: ok")
    return 0


def _new_key(options: argparse.Namespace) -> int:
    name, given = options.name, options.given
    if name is None and given and len(given[-1]) > 1:
        _, name = given[-1].pop()  # an option takes all words up to the next one, and so the last
    if name is None:
        options.refuse("NAME is missing")
    scopes, models = _all_of("--scopes", given), _all_of("--models", given)
    if "" in models:
        options.refuse("--models: a name is empty")
    try:
        print(keys.notice(name, scopes, models))
    except ConfigProblem as exc:
        options.refuse(keys.complaint(exc))
    return 0


def _all_of(option: str, given: list[list[tuple[str, str]]]) -> list[str]:
    return [word.strip() for said in given for of, text in said if of == option for word in text.split(",")]


def _demo(options: argparse.Namespace) -> int:
    uvloop.run(demo.run(options.port))
    return 0


def _simulate(options: argparse.Namespace) -> int:
    return simulate.main()


def _log_to_stderr(level: int) -> None:
    """No timestamps: journald and container runtimes add their own.  Nor what else costs a system call."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # nor who logs: see "Optimization" in the logging HOWTO of Python
    logging.basicConfig(
        level=level, handlers=[Lines(sys.stderr)], format="%(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _collect_seldom() -> None:
    """Have the garbage collector look less often, and never at what was there before the first request."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 50)  # 700, 10, 10: each request makes some hundred objects that it frees
