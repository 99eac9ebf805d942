"""
The life of the process: sockets, signals, and an end that cuts nobody off without a word.

`listening` is the production server; the tests use it too, so that what they see is what runs.
"""

import asyncio
import contextlib
import functools
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from dmap import engines, tasks
from dmap.backends import Engine
from dmap.config import Config, ConfigProblem, Source, warnings_of
from dmap.errors import ShuttingDown
from dmap.lines import write_as
from dmap.logfmt import Line
from dmap.notify import Notifier
from dmap.owner import cards_of, owning, servers_of, told_of
from dmap.process import end_orphans
from dmap.sockets import find_vanished, given_to_us, taken
from dmap.state import StateFile, default_path
from dmap.web import metrics
from dmap.web.app import make_server
from dmap.web.listener import Listener
from dmap.web.proxy import Proxy
from dmap.web.reload import reload

_log = logging.getLogger(__name__)

ON_THE_WAY_S = 0.2
"""How long a request may be on its way, by a connection that was taken before dmap was told to stop."""
_CANCEL_S = 1.0
"""How long a cancelled handler may take to end.  aiohttp waits up to twice this."""


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A proxy that listens on *addresses*."""

    proxy: Proxy
    addresses: list[tuple[str, int]]
    _listeners: list[Listener]

    @property
    def url(self) -> str:
        """The first address, as a URL."""
        host, port = self.addresses[0]
        scheme = "http" if self.proxy.certificate is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def status(self) -> str:
        """Say in one line which models are resident, and how many requests wait and are served."""
        views = [gate.snapshot() for gate in self.proxy.gates.values()]
        residents = sorted(str(resident.model) for view in views for resident in view.residents)
        waiting, leases = sum(view.waiting for view in views), sum(view.leases for view in views)
        return f"resident: {', '.join(residents) or 'none'}; {waiting} waiting, {leases} served"

    async def drain(self, hurry: asyncio.Event) -> None:
        """
        Stop listening, refuse the requests that wait, and let streams finish within `server.shutdown_s`.

        Who was let in just before has a moment to ask, and is answered if nobody has to wait for that: a load
        balancer sends what it has connected for, and knows no other place for it by then.
        A stream that is left then, or once *hurry* is set, gets an error and is cut.  A socket that
        systemd holds goes on queueing connections for the next daemon.
        """
        for listener in self._listeners:
            listener.end()
        self.proxy.bus.close()
        await asyncio.sleep(ON_THE_WAY_S)
        ends = [tasks.errand(self._emptied(), "drain"), tasks.errand(hurry.wait(), "hurry")]
        within_s = self.proxy.config.server.shutdown_s
        await asyncio.wait(ends, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        await tasks.end(*ends)
        self.proxy.pool.stop(ShuttingDown("dmap is shutting down"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CANCEL_S):
                await self.proxy.visits.gone()

    async def _emptied(self) -> None:
        """Close all gates at once, and wait until no request is under way."""
        await asyncio.gather(*(gate.close() for gate in self.proxy.gates.values()))
        await self.proxy.visits.gone()


@contextlib.asynccontextmanager
async def listening(
    config: Config,
    given: Sequence[socket.socket] = (),
    state: StateFile | None = None,
    found: Mapping[str, Engine] = MappingProxyType({}),
) -> AsyncGenerator[RunningDaemon]:
    """
    Run a proxy of *config* inside the context; port 0 takes a free one.

    If sockets are *given*, which listen already, they are used instead of `listen`; they are closed in the
    end.  The engines that a look has *found* are told of.  Raises `ConfigProblem` for a certificate that
    cannot be used.
    """
    proxy = Proxy(config, state, found)
    http = make_server(proxy)
    # An address that is in use is found before anything is started that would have to be stopped.
    sockets = given or taken(config.listen.host, config.listen.port)
    for sock in sockets:
        find_vanished(sock, config.server.client_stall_s)
    listeners = [Listener(sock, http, proxy.certificate) for sock in sockets]
    lag = functools.partial(metrics.watch, proxy.metrics.lag)
    async with contextlib.AsyncExitStack() as stack:
        for listener in listeners:
            stack.callback(listener.close)
        await stack.enter_async_context(proxy.activity.running())  # it hears of all that ends below
        await stack.enter_async_context(proxy.traces.running())
        if proxy.shared is not None:  # before anything is loaded on a server that another dmap has
            await stack.enter_async_context(proxy.shared.running())
        await stack.enter_async_context(proxy.running())
        await stack.enter_async_context(tasks.running(lag, "loop lag"))
        stack.push_async_callback(http.shutdown, _CANCEL_S)
        stack.callback(http.pre_shutdown)
        for listener in listeners:
            listener.start()
        yield RunningDaemon(proxy, [listener.address for listener in listeners], listeners)


async def serve(
    config: Config,
    on_ready: Callable[[str], None] = lambda url: None,
    read_again: Callable[[], Config] | None = None,
    source: Callable[[], Source] = Source,
) -> int:
    """
    Run until SIGTERM or SIGINT; a second one ends it at once.  *on_ready* gets the URL that answers.

    On SIGHUP the configuration is taken from *read_again*; if that cannot be used, the old one stays.
    *source* tells where its keys stand.  Under systemd the daemon reports its state (`notify`) and uses the
    sockets that systemd hands over.
    Return 0, or 1 if a bug has stopped the daemon (`tasks`).  Raises `ConfigProblem` for what cannot be used,
    engines included, and for a server whose models another dmap of this host switches.
    """
    _raise_file_limit()
    loop, notifier = asyncio.get_running_loop(), Notifier(os.environ, os.getpid())
    stop, hurry = _heed_signals(loop)
    broken = _heed_bugs(loop, stop)
    given = given_to_us(config.access)
    async with contextlib.AsyncExitStack() as stack:
        own = owning(servers_of(config), told_of(source().name), cards_of(config))
        await stack.enter_async_context(own)
        await _end_orphans()
        found = await _looked(config, stop)  # after the orphans, which may fill a GPU
        if found is None:
            return 0
        state = StateFile(config.state or default_path(os.environ))
        await stack.enter_async_context(tasks.running(notifier.beat, "notify"))
        daemon = await stack.enter_async_context(listening(config, given, state, found))
        _introduce(daemon, by="systemd" if given else None)
        _advise(daemon.proxy, source())
        notifier.status = daemon.status
        notifier.ready()
        if read_again is not None:
            daemon.proxy.reload = functools.partial(_reload, daemon.proxy, read_again, source, notifier)
            loop.add_signal_handler(signal.SIGHUP, daemon.proxy.reload)
        on_ready(daemon.url)
        await stop.wait()
        notifier.tell(STOPPING="1")
        _log.info(Line("stopping", {"within_s": config.server.shutdown_s}))
        await daemon.drain(hurry)
    return 1 if broken.is_set() else 0


def _heed_signals(loop: asyncio.AbstractEventLoop) -> tuple[asyncio.Event, asyncio.Event]:
    """Return what the first SIGTERM or SIGINT sets, and what the second does.  SIGHUP does nothing yet."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # until there is something to reload
    return stop, hurry


async def _looked(config: Config, stop: asyncio.Event) -> dict[str, Engine] | None:
    """Ask the engines, which a driver may hold for half a minute; None if *stop* is set before that."""
    looking = tasks.errand(engines.look_at(config), "look at engines", expected=(ConfigProblem,))
    stopped = tasks.errand(stop.wait(), "stop")
    try:
        await asyncio.wait((looking, stopped), return_when=asyncio.FIRST_COMPLETED)
        return looking.result() if looking.done() else None
    finally:
        await tasks.end(looking, stopped)


async def _end_orphans() -> None:
    """End what a dmap that was killed has left, for that still has its memory on the devices."""
    if orphans := await asyncio.to_thread(end_orphans):
        _log.warning(Line("orphans_ended", {"pids": ",".join(map(str, orphans))}))


def _heed_bugs(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> asyncio.Event:
    """
    Log what nobody on *loop* catches; some of it also sets *stop* (`tasks`).

    Return an event that tells whether that has happened.
    """
    broken = asyncio.Event()

    def heed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get(tasks.STOPS):  # `tasks` has logged it
            broken.set()
            return stop.set()
        _log.error(Line("bug", {"what": context["message"]}), exc_info=context.get("exception"))

    loop.set_exception_handler(heed)
    return broken


def _raise_file_limit() -> None:
    """Use all the descriptors that we may: a stream takes two, and 1,024 is the usual soft limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _reload(
    proxy: Proxy, read_again: Callable[[], Config], source: Callable[[], Source], notifier: Notifier
) -> list[str]:
    """Use the file as it is now.  Return its problems, which are logged; with any of them nothing changes."""
    notifier.reloading()
    try:
        config = read_again()
        with source().located():
            reload(proxy, config)
    except ConfigProblem as exc:
        for problem in exc.problems:
            _log.error(Line("reload_refused", {"reason": problem}))
        proxy.bus.tell("config.refused", {"problems": exc.problems})
        return exc.problems
    else:
        log = proxy.config.log
        write_as(log.level, log.format, stamped=log.stamped)
        _advise(proxy, source())
        _log.info(Line("reloaded", {}))
        proxy.bus.tell("config.reloaded", {})
    finally:
        notifier.ready()
    return []


def _introduce(daemon: RunningDaemon, by: str | None) -> None:
    """Say what is here: devices, backends with their models, and where dmap listens."""
    proxy, config = daemon.proxy, daemon.proxy.config
    for name, device in config.devices.items():
        residents = ",".join(sorted(map(str, proxy.devices[name].residents)))
        bounds = {"memory": device.memory, "max_models": device.max_models}
        gpus = ",".join(map(str, device.gpus)) or None
        _log.info(Line("device", {"name": name, **bounds, "gpus": gpus, "resident": residents or None}))
    for name, backend in config.backends.items():
        where = {"kind": backend.kind, "device": backend.placed_on, "url": proxy.backends[name].url}
        models = proxy.catalog.counted(name) if name in proxy.inventory.answering else None
        engine = proxy.engines.get(name)
        told = (
            {"engine": engine.name, "devices": ", ".join(engine.devices) or None, "hint": engine.hint}
            if engine
            else {}
        )
        _log.info(Line("backend", {"name": name, **where, "models": models, **told}))
    _log.info(Line("listening", {"url": daemon.url, "by": by, "backends": ",".join(config.backends)}))


def _advise(proxy: Proxy, source: Source) -> None:
    config = proxy.config
    warnings = (*warnings_of(config, datetime.now(UTC)), *engines.warnings_of(config, proxy.engines))
    for warning in source.locate(warnings):
        _log.warning(Line("advice", {"reason": warning}))
