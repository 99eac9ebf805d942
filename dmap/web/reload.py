"""Another configuration for a running proxy: what can change does, and what cannot changes nothing."""

from typing import Any

from dmap.config import Config, ConfigProblem
from dmap.errors import ModelNotFound
from dmap.models import ModelKey
from dmap.sockets import names_of
from dmap.tls import check
from dmap.tokens import counters
from dmap.web.parts import cache_of
from dmap.web.proxy import Proxy


def reload(proxy: Proxy, config: Config) -> None:
    """
    Have *proxy* go on under *config*.

    Residents, queues and streams are not touched; requests that wait for a model that is gone are refused.
    Raises `ConfigProblem` for what takes a restart and for a certificate or a tokenizer file that cannot be
    used, and then all is as it was.
    """
    old, new = _lasting(proxy.config), _lasting(config)
    if too_much := [what for what in {**old, **new} if old.get(what) != new.get(what)]:
        raise ConfigProblem([f"{what} takes a restart" for what in too_much])
    read = counters(config, proxy.context.counters)
    if proxy.certificate is not None and config.listen.tls is not None:
        check(config.listen.tls)
        proxy.certificate.take(config.listen.tls)
    proxy.config, proxy.context.counters = config, read
    proxy.cache = cache_of(config, proxy.shared, proxy.making)
    proxy.access.configure(config.access, names_of(config.listen))
    proxy.catalog.configure(config)
    proxy.choose()
    proxy.lacking.clear()
    proxy.bus.resize(config.debug.ring)
    proxy.activity.configure(config.activity)
    if not config.debug.capture:
        proxy.captures.clear()
    proxy.visits.server = config.server
    proxy.pool.connect_s = config.server.connect_s
    for name in config.devices:
        proxy.devices[name].configure(config.device(name))
    gone = ModelNotFound(
        "the model was taken out of the configuration while the request waited", param="model"
    )
    for gate in proxy.gates.values():
        gate.refuse(lambda lease: _is_gone(proxy, lease.route.key), gone)


def _is_gone(proxy: Proxy, key: ModelKey) -> bool:
    return bool(key.model) and proxy.catalog.route_of(key) is None


def _lasting(config: Config) -> dict[str, Any]:
    """Return what only a restart changes, by what to say of it."""
    listen = config.listen
    return {
        "listen: another address": (listen.host, listen.port),
        "listen.tls: with TLS or without": listen.tls is not None,
        "state: another file": config.state,
        "traces: a change here": config.traces,
        "redis: a change here": config.redis,
        "devices: one more or less": config.devices.keys(),
        **{f"devices.{name}.gpus: a change here": device.gpus for name, device in config.devices.items()},
        **{f"backends.{name}: a change here": section.lasting for name, section in config.backends.items()},
    }
