"""The commands that do their work here, without a daemon that runs: with all that this takes to import."""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import uvloop

from dmap import engines, moving, tls, tokens, traces
from dmap.access import keys
from dmap.config import Config, ConfigProblem, Log, load, read, warnings_of
from dmap.daemon import serve
from dmap.extras import how
from dmap.lines import Lines, write_as
from dmap.simulate import command

EX_CONFIG = 78
"""`EX_CONFIG` of sysexits.h; systemd is told not to restart after it."""


def run(options: argparse.Namespace) -> int:
    """Run the command that *options* name; return its exit code."""
    try:
        return _COMMANDS[options.local](options) or 0
    except ConfigProblem as exc:
        for problem in exc.problems:
            print(f"dmap: {problem}", file=sys.stderr)
        return EX_CONFIG


def _serve(options: argparse.Namespace) -> int:
    def read() -> Config:
        config = load(options.config)
        level = options.log_level or config.log.level
        return config.model_copy(update={"log": config.log.model_copy(update={"level": level})})

    config = read()
    _log_to_stderr(config.log)
    _collect_seldom()
    return uvloop.run(serve(config, read_again=read))


def _check(options: argparse.Namespace) -> None:
    config = load(options.config)
    if config.listen.tls is not None:
        tls.check(config.listen.tls)
    tokens.counters(config)
    traces.check(config.traces)
    found = uvloop.run(engines.look_at(config))
    for warning in (*warnings_of(config, datetime.now(UTC)), *engines.warnings_of(config, found)):
        print(f"dmap: warning: {warning}", file=sys.stderr)
    for name, engine in found.items():
        print(f"backends.{name}: {engines.said(engine)}")
    print(f"{options.config}: ok")


def _import(options: argparse.Namespace) -> int:
    text = moving.imported(read(options.config), os.environ, options.config.name)
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
        print(keys.notice(options.name, scopes=scopes, models=options.models or None, **bounds))
    except ConfigProblem as exc:
        options.refuse("; ".join(exc.problems))


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
