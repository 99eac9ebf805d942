"""Another configuration for a running proxy: what can change does, and what cannot changes nothing."""

from collections.abc import Iterator

from dmap.config import Config, ConfigProblem
from dmap.errors import ModelNotFound
from dmap.sockets import names_of
from dmap.tls import check
from dmap.tokens import counters
from dmap.web.proxy import Proxy


def reload(proxy: Proxy, config: Config) -> None:
    """
    Have *proxy* go on under *config*.

    Residents, queues and streams are not touched; requests that wait for a model that is gone are refused.
    Raises `ConfigProblem` for what takes a restart and for a certificate or a tokenizer file that cannot be
    used, and then all is as it was.
    """
    problems = list(_too_much(proxy.config, config))
    if problems:
        raise ConfigProblem(problems)
    read = counters(config, proxy.context.counters)
    if proxy.certificate is not None and config.listen.tls is not None:
        check(config.listen.tls)
        proxy.certificate.take(config.listen.tls)
    proxy.config, proxy.context.counters = config, read
    proxy.access.configure(config.access, names_of(config.listen))
    proxy.catalog.configure(config)
    proxy.choose()
    proxy.bus.resize(config.debug.ring)
    if not config.debug.capture:
        proxy.captures.clear()
    proxy.visits.server = config.server
    proxy.pool.connect_s = config.server.connect_s
    for name, device in config.devices.items():
        proxy.devices[name].configure(device)
    gone = ModelNotFound(
        "the model was taken out of the configuration while the request waited", param="model"
    )
    for gate in proxy.gates.values():
        gate.refuse(lambda key: proxy.catalog.route_of(key) is None, gone)


def _too_much(old: Config, new: Config) -> Iterator[str]:
    if (new.listen.host, new.listen.port) != (old.listen.host, old.listen.port):
        yield "listen: another address takes a restart"
    if (new.listen.tls is None) != (old.listen.tls is None):
        yield "listen.tls: with TLS or without takes a restart"
    if new.state != old.state:
        yield "state: another file takes a restart"
    if new.devices.keys() != old.devices.keys():
        yield "devices: one more or less takes a restart"
    for name in sorted(new.backends.keys() | old.backends.keys()):
        if new.backends.get(name) != old.backends.get(name):
            yield f"backends.{name}: a change here takes a restart"
