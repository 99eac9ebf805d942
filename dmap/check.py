"""`dmap check-config`: everything that is wrong with a configuration, and what its owner may not want."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

import uvloop

from dmap import engines, memory, shared, tls, tokens, traces
from dmap.backends import Engine
from dmap.config import Config, ConfigProblem, LocatedProblem, section_of, warnings_of
from dmap.origin import Origin
from dmap.state import default_path
from dmap.survey import Survey, survey, warnings_of_models


def check(origin: Origin) -> None:
    """Print what *origin* allows but its owner may not want; raises `LocatedProblem` if it cannot be used."""
    logging.getLogger("dmap").addHandler(logging.NullHandler())  # what is worth it is told as a warning
    try:
        config = origin.load()
    except LocatedProblem as exc:
        _warn(origin, _of_the_rest(exc))
        raise
    with origin.source.located():
        _check_files(config)
        found, looked_at, gpus = uvloop.run(_ask(config))
    warnings = [
        *warnings_of(config, datetime.now(UTC)),
        *warnings_of_models(config, found),
        *engines.warnings_of(config, looked_at),
        *memory.warnings_of(config, gpus),
        *_unwritable(config),
        *origin.exposed(),
    ]
    _warn(origin, warnings)
    for name, engine in looked_at.items():
        print(f"backends.{name}: {engines.said(engine)}")
    for name, each in gpus.items():
        print(f"devices.{name}: {memory.said(each)}")
    print(f"{origin.source.name or 'the environment'}: ok")


def _warn(origin: Origin, warnings: Iterable[str]) -> None:
    once = dict.fromkeys(warnings)  # a backend on several devices is one place of the file
    for warning in origin.source.locate(once, mark="warning: "):
        print(warning, file=sys.stderr)


def _of_the_rest(refused: LocatedProblem) -> list[str]:
    """Return the warnings about sections that have no mistake and rest on none that has."""
    if not isinstance(refused.left, Config):
        return []
    wrong = refused.wrong | ({"devices", "models"} if "backends" in refused.wrong else set())
    warnings = warnings_of(refused.left, datetime.now(UTC))
    return [each for each in warnings if section_of(each) not in wrong]


async def _ask(config: Config) -> tuple[Survey, Mapping[str, Engine], Mapping[str, memory.Finding]]:
    found = await survey(config, config.backends)
    return found, await engines.look_at(config), await memory.look_at(config)


def _check_files(config: Config) -> None:
    """Read the files that *config* names; raises `ConfigProblem` with what is wrong with any of them."""
    problems: list[str] = []
    files = (_read_certificate, tls.check_authorities, tokens.counters)
    for read in (*files, _check_traces, _check_redis, memory.check):
        try:
            read(config)
        except ConfigProblem as exc:
            problems += exc.problems
    if problems:
        raise ConfigProblem(problems)


def _read_certificate(config: Config) -> None:
    if config.listen.tls is not None:
        tls.check(config.listen.tls)


def _check_traces(config: Config) -> None:
    traces.check(config.traces)


def _check_redis(config: Config) -> None:
    shared.check(config.redis)


def _unwritable(config: Config) -> Iterator[str]:
    """Find that the state could not be saved: its file is replaced, so its folder has to be writable."""
    path = config.state or default_path(os.environ)
    folder = next(each for each in path.absolute().parents if each.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK) or path.is_dir():
        yield f"state: {path} cannot be written by this user, so what the admin API sets would be lost"
