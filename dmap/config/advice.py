"""What the file allows but its owner may not want."""

import math
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from dmap.config.residents import doubts
from dmap.config.schema import Config
from dmap.sections.command import PORT, places
from dmap.sections.types import is_loopback

_LEAST_MEMORY = 2**20
"""Bytes; less was meant in a larger unit."""
_LEAST_BODY = 2**10
_OTLP_GRPC = 4317
_SHELLS = frozenset(("sh", "bash", "dash", "zsh"))
_VARIABLE = re.compile(r"\$[A-Z_]")
_PORTS = {"http": 80, "https": 443}


def warnings_of(config: Config, now: datetime, load_s: float = 10) -> list[str]:
    """
    Tell what the file allows but its owner may not want.

    *now* has a time zone; *load_s* is the cost of a load that nobody has measured yet.
    """
    return [
        *_long_waits(config, load_s),
        *_idle(config),
        *_tiny(config),
        *_unfit(config),
        *_unheard(config),
        *_unfilled(config),
        *doubts(config),
        *_about_servers(config),
        *_about_lists(config),
        *_about_access(config, now),
    ]


def _long_waits(config: Config, load_s: float) -> Iterator[str]:
    """Find devices where a waiter may see all other models go first: models x (residency + 1) x cost."""
    for name, device in config.devices.items():
        rivals = max(
            sum(config.device_of(model) == name for model in config.settings.named.values()),
            sum(each.counted() for each in config.backends.values() if each.placed_on == name),
        )
        longest = rivals * (device.residency + 1) * load_s
        at_once = max(device.max_models, *map(len, device.together), 0)
        if rivals > at_once and longest > device.wait_s:
            residency = math.floor(10 * (device.wait_s / rivals / load_s - 1)) / 10
            yield (
                f"devices.{name}: {rivals} models can keep a request waiting {longest:.0f} s "
                f"(loads of {load_s:.0f} s), longer than wait_s of {device.wait_s:.0f} s; set wait_s to "
                f"{math.ceil(longest)}" + (f", or residency to {residency:g}" if residency >= 0 else "")
            )


def _idle(config: Config) -> Iterator[str]:
    """Find what is set and has no effect."""
    used = {backend.device for backend in config.backends.values()}
    for name in sorted(config.devices.keys() - used):
        yield f"devices.{name}: no backend is on this device"
    for name in (name for name, device in config.devices.items() if device.memory is None):
        for server in (server for server, size in config.device(name).held.items() if size is not None):
            yield f"backends.{server}.memory: is only shown, because devices.{name}.memory is not set"
    for name, model in config.models.items():
        if model.pin and model.ttl_s is not None:
            yield f"models.{name}.ttl_s: a pinned model stays, however long nobody asks for it"


def _tiny(config: Config) -> Iterator[str]:
    """Find memory that no model fits into, because its unit was left out."""
    sections: dict[str, Any] = {"devices": config.devices, "models": config.models}
    for section, entries in sections.items():
        for name, entry in entries.items():
            if entry.memory is not None and entry.memory < _LEAST_MEMORY:
                yield f"{section}.{name}.memory: these are bytes; with a unit it is {entry.memory}GiB"


def _unfit(config: Config) -> Iterator[str]:
    """Find bounds of the daemon's own that nothing fits into, and a collector's other port."""
    server = config.server
    if server.max_body < _LEAST_BODY:
        yield f"server.max_body: these are bytes; with a unit it is {server.max_body}MiB"
    if server.bodies < server.max_body:
        yield "server.bodies: less than max_body, so a request as long as that never gets in"
    if config.traces is not None and urlsplit(config.traces.url).port == _OTLP_GRPC:
        yield f"traces.url: at {_OTLP_GRPC} collectors take gRPC; over HTTP, as dmap sends it, it is 4318"


def _unheard(config: Config) -> Iterator[str]:
    """Find commands that are not told where to listen, by a URL that has that port."""
    for name, model in config.settings.named.items():
        told = {place for text in (*(model.cmd or ()), *model.env.values()) for place in places(text)}
        if model.cmd and PORT not in told and (model.url is None or PORT in places(model.url)):
            yield f"models.{name}.cmd: is not told {{port}}, so nobody finds its server; say it, or set url"


def _unfilled(config: Config) -> Iterator[str]:
    """Find commands with variables that only a shell would fill in."""
    for name, model in config.settings.named.items():
        words = model.cmd or ("",)
        if PurePath(words[0]).name not in _SHELLS and any(map(_VARIABLE.search, words)):
            yield f"models.{name}.cmd: no shell fills in $NAME here; write ${{NAME}}, or sh -c '...'"


def _about_servers(config: Config) -> Iterator[str]:
    """Find backends that are one server, and one that is dmap itself."""
    own, before = (config.listen.port, ""), dict[tuple[str, int, str], str]()
    for name, backend in config.backends.items():
        if (url := getattr(backend, "url", None)) is None:
            continue
        host, port, path = _server(url)
        if (port, path) == own and host in (_LOOPBACK, config.listen.host):
            yield f"{config.where(name)}.url: this is where dmap itself listens; it would ask itself for ever"
        first = before.setdefault((host, port, path), name)
        if first != name:
            seen = config.where(first)
            harm = "it counts for two boxes" if config.kind_of(name).forwards else "its models compete unseen"
            yield f"{config.where(name)}.url: the server of {seen} too; {harm}"


_LOOPBACK = "loopback"


def _server(url: str) -> tuple[str, int, str]:
    """Return the host, the port and the path of a server, each in one spelling."""
    parts = urlsplit(url)
    host = (parts.hostname or "").removesuffix(".")
    if is_loopback(host) or host in ("0.0.0.0", "::"):  # noqa: S104 - one asks this host by these, too
        host = _LOOPBACK
    return host, parts.port or _PORTS[parts.scheme], parts.path.rstrip("/").removesuffix("/v1")


def _about_lists(config: Config) -> Iterator[str]:
    """Find lists of models that leave none."""
    if not config.allow_models:
        yield "allow_models: is empty, so no model is listed or served; without this line all are"
    for at, key in enumerate(config.access.keys):
        if not key.models and "inference" in key.scopes:
            yield f"access.keys[{at}].models: is empty, so {key.name!r} may use no model; without it, all"


def _about_access(config: Config, now: datetime) -> Iterator[str]:
    """Find that everybody may come in, and who no longer may."""
    access = config.access
    if access.open and (access.keys or access.allow):
        rest = "everybody needs one" if access.keys else "only these get in"
        yield f"access.open: has no effect beside {'keys' if access.keys else 'allow'}: {rest}"
    elif access.open and not is_loopback(config.listen.host):
        yield "access.open: anyone who reaches this host may use every model"
    for at, network in enumerate(access.trusted_proxies):
        if network.prefixlen == 0:
            yield (
                f"access.trusted_proxies[{at}]: everybody is believed; whoever comes may claim any address "
                "in X-Forwarded-For, so name your proxies alone"
            )
    for at, network in enumerate(access.allow):
        if network.prefixlen == 0:
            yield f"access.allow[{at}]: these are all addresses there are, so anyone gets in"
    for at, key in enumerate(access.keys):
        if key.expires is not None and key.expires <= now:
            yield f"access.keys[{at}].expires: {key.name!r} expired on {key.expires:%Y-%m-%d}"
