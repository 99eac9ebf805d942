"""Where the configuration of a command comes from: a file, or the environment alone."""

import argparse
import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import uvloop

from dmap.config import (
    BACKEND_KIND,
    BACKEND_URL,
    BY_URL,
    Config,
    ConfigFile,
    Source,
    Variables,
    from_environment,
)
from dmap.survey import kind_of_server


class Origin(Protocol):
    """What a configuration is read from; *source* tells where its keys were when that was done last."""

    @property
    def source(self) -> Source:
        """Where its keys were."""

    def load(self) -> Config:
        """Read it; raises `LocatedProblem` with everything that is wrong."""

    def exposed(self) -> Iterable[str]:
        """Return the secrets in it that others may read, each a line with its path."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The variables `DMAP_...` of *environ*, as they were at the start; the server is of this *kind*."""

    environ: Mapping[str, str]
    kind: str
    source: Source = field(default_factory=Variables)

    def load(self) -> Config:
        """Read the variables; raises `LocatedProblem` with everything that is wrong."""
        return from_environment(self.environ, self.kind)

    def exposed(self) -> Iterable[str]:
        """Return nothing: it takes no secrets."""
        return ()


def origin_of(options: argparse.Namespace) -> Origin:
    """
    Return what the command line in *options* names, else the environment.

    The kind of its server is found by asking.  Raises `OSError` when it does not answer.
    """
    if options.config is not None:
        return ConfigFile(options.config)
    if not os.environ.get(BACKEND_URL):
        options.refuse(f"name a FILE, or set {BACKEND_URL}")
    return Environment(os.environ, os.environ.get(BACKEND_KIND) or _asked())


def _asked() -> str:
    kind = uvloop.run(kind_of_server(functools.partial(from_environment, os.environ)))
    if kind is None:
        kinds = " or ".join(BY_URL)
        reason = "it does not answer, so its kind is not known"
        raise OSError(f"{BACKEND_URL}: {reason}; set {BACKEND_KIND} to {kinds}")
    return kind
