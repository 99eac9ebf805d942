"""
A configuration from the environment alone, for containers: one server, where dmap listens, who may ask.

Whatever else there is to say takes a file.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dmap.backends.sections import BackendSection, SwitchingSection
from dmap.config.file import checked
from dmap.config.problems import Source
from dmap.config.schema import Config
from dmap.kinds import KINDS
from dmap.sections.near import meant, nearest

BACKEND_URL, BACKEND_KIND = "DMAP_BACKEND_URL", "DMAP_BACKEND_KIND"
LISTEN, KEYS = "DMAP_LISTEN", "DMAP_KEYS"
BACKEND = "server"
"""What the backend is called."""

_DEVICE = "gpu0"
_KNOWN = (BACKEND_URL, BACKEND_KIND, LISTEN, KEYS, "DMAP_URL", "DMAP_KEY")
_PATHS = {f"backends.{BACKEND}.kind": BACKEND_KIND, "backends": BACKEND_URL, "listen": LISTEN, "access": KEYS}
_NO_ADDRESS = "not an address to listen at; write it like 0.0.0.0:8000 or [::]:8000"
_NO_KEYS = "empty; write the SHA-256 of each key, with a name as in webui:SHA256, and commas between"


class Variables(Source):
    """Tells of each problem which variable it is in, never with what is in it."""

    def locate(self, problems: Iterable[str], mark: str = "") -> list[str]:
        """Return *problems*, each with its variable in place of its path, and a *mark*."""
        return [f"{mark}{_named(problem)}" for problem in problems]


def _named(problem: str) -> str:
    path, _, words = problem.partition(": ")
    variable = next((name for start, name in _PATHS.items() if path.startswith(start)), path)
    if item := re.search(r"\[(\d+)\]", path):
        variable += f", item {int(item[1]) + 1}"
    words = re.sub(r"access[.]keys\[(\d+)\]", lambda key: f"item {int(key[1]) + 1}", words)
    return f"{variable}: {re.sub('set access[.]keys.*', f'set {KEYS}', words)}"


def _takes_no_more(section: type[BackendSection]) -> bool:
    """Tell whether a *section* is whole with an address, and what the environment says of its place."""
    needed = {name for name, field in section.model_fields.items() if field.is_required()}
    return "url" in needed and needed <= {"kind", "url", "device"}


_BY_URL = {name: kind.section for name, kind in KINDS.items() if _takes_no_more(kind.section)}
BY_URL = sorted(_BY_URL, key=lambda name: not issubclass(_BY_URL[name], SwitchingSection))
"""The kinds that take no more than a URL; first those whose models dmap can switch."""


def from_environment(environ: Mapping[str, str], kind: str) -> Config:
    """
    Return the configuration that the variables in *environ* say, with a backend of this *kind*.

    Raises `LocatedProblem` with everything that is wrong.
    """
    said: list[str] = []
    if kind not in _BY_URL:
        takes = f"must be {' or '.join(BY_URL)}; any other takes a file{meant(kind, BY_URL)}"
        kind, said = BY_URL[0], [f"backends.{BACKEND}.kind: {takes}"]
    values: dict[str, Any] = {
        "backends": {BACKEND: {"kind": kind, "url": environ.get(BACKEND_URL, "")}},
        "listen": _listen(environ.get(LISTEN), said),
        "access": {"keys": _keys(environ.get(KEYS), said)},
    }
    if issubclass(_BY_URL[kind], SwitchingSection):
        values["devices"], values["backends"][BACKEND]["device"] = {_DEVICE: {}}, _DEVICE
    with Variables().located():
        return checked(Config, values, said=[*said, *_misspelled(environ)])


def _listen(text: str | None, said: list[str]) -> dict[str, str]:
    if text is None:
        return {}
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+)):([0-9]{1,5})", text)
    if found is None:
        said.append(f"listen: {_NO_ADDRESS}")
        return {}
    return {"host": found[1] or found[2], "port": found[3]}


def _keys(text: str | None, said: list[str]) -> list[dict[str, str]]:
    """Read `SHA256` or `NAME:SHA256`, several with commas or spaces between."""
    if text is None:
        return []
    items = [item for item in re.split(r"[,\s]+", text) if item]
    if not items:
        said.append(f"access: {_NO_KEYS}")
    pairs = [item.rpartition(":") for item in items]
    return [{"name": name or f"key{at}", "sha256": sha256} for at, (name, _, sha256) in enumerate(pairs, 1)]


def _misspelled(environ: Mapping[str, str]) -> Iterable[str]:
    for name in environ:
        if name.startswith("DMAP_") and name not in _KNOWN and (near := nearest(name, _KNOWN)):
            yield f"{name}: no such variable; did you mean {near}?"
