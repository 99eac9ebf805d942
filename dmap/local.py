"""The commands that do their work here, without a daemon that runs: with all that this takes to import."""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Callable, Mapping
from datetime import date

import uvloop

from dmap import moving
from dmap.access import keys
from dmap.check import check
from dmap.config import Config, ConfigProblem, LocatedProblem, Log, Source, read
from dmap.daemon import serve
from dmap.extras import how
from dmap.lines import Lines, write_as
from dmap.origin import origin_of
from dmap.simulate import command

EX_CONFIG = 78
"""`EX_CONFIG` of sysexits.h; systemd is told not to restart after it."""


def run(options: argparse.Namespace) -> int:
    """Run the command that *options* name; return its exit code."""
    try:
        return _COMMANDS[options.local](options) or 0
    except ConfigProblem as exc:
        before = "" if isinstance(exc, LocatedProblem) else "dmap: "
        for problem in exc.problems:
            print(f"{before}{problem}", file=sys.stderr)
        return EX_CONFIG


def _serve(options: argparse.Namespace) -> int:
    origin = origin_of(options)

    def read() -> Config:
        config = origin.load()
        log = config.log.model_copy(update={"level": options.log_level or config.log.level})
        port = config.listen.port if options.port is None else options.port
        return config.model_copy(
            update={"log": log, "listen": config.listen.model_copy(update={"port": port})}
        )

    config = read()
    _log_to_stderr(config.log)
    _collect_seldom()
    with origin.source.located():
        return uvloop.run(serve(config, read_again=read, source=lambda: origin.source))


def _check(options: argparse.Namespace) -> None:
    check(origin_of(options))


def _import(options: argparse.Namespace) -> int:
    with Source(str(options.config)).located():
        given = read(options.config)
        text = moving.imported(given, os.environ, options.config.name)
    print(text, end="")
    problems = moving.problems_of(text, os.environ)
    for problem in problems:
        print(f"dmap: not taken over whole: {problem}", file=sys.stderr)
    return EX_CONFIG if problems else 0


def _new_key(options: argparse.Namespace) -> None:
    if "" in options.models:
        options.refuse("--models: a name is empty")
    scopes = [] if options.scopes == ["none"] else options.scopes or None
    bounds = {"expires": options.expires, "parallel": options.parallel, "rate_per_min": options.rate}
    try:
        text = keys.notice(options.name, scopes=scopes, models=options.models or None, **bounds)
    except ConfigProblem as exc:
        options.refuse("; ".join(exc.problems))
    if options.expires is not None and date.fromisoformat(options.expires) <= date.today():
        options.refuse(f"--expires: {options.expires} has come: the key would be refused from the first")
    print(text)


def _demo(options: argparse.Namespace) -> None:
    try:
        from dmap import demo
    except ImportError as exc:
        raise ConfigProblem([f"the demo takes {exc.name}; {how('engine')}"]) from exc
    uvloop.run(demo.run(options.port))


def _simulate(options: argparse.Namespace) -> None:
    command.run(options)


def _log_to_stderr(log: Log) -> None:
    """
    Log as *log* says, without what is costly.

    What is left out are the caller, the thread and the process: see "Optimization" in the logging HOWTO.
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    logging.basicConfig(handlers=[Lines(sys.stderr)])
    write_as(log.level, log.format, stamped=log.stamped)
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def _collect_seldom() -> None:
    """
    Have the garbage collector look less often, and never at what was there before the first request.

    A request frees nearly all that it makes without it; 200 that begin at once hold some 60,000 objects.
    """
    gc.freeze()
    gc.set_threshold(100_000, 10, 50)


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int | None]] = {
    "serve": _serve,
    "check-config": _check,
    "import": _import,
    "demo": _demo,
    "simulate": _simulate,
    "key new": _new_key,
}
