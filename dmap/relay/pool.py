"""The idle connections to all backends, and the exchanges under way."""

import asyncio
import errno
from collections import deque

from dmap.backends import Target, trouble_of
from dmap.errors import BackendDown, DmapError, Overloaded
from dmap.hosts import HOSTS
from dmap.relay.at_node import AtNode
from dmap.relay.connection import Address, BackendConnection
from dmap.relay.exchange import Bounds, Exchange
from dmap.relay.states import State
from dmap.relay.sweep import Sweep
from dmap.sockets import watch_node
from dmap.standstill import patient

MAX_IDLE_S = 3.5
"""LM Studio and llama-server close an idle connection after 5 s (`Keep-Alive: timeout=5`)."""
NODE_S = 1.5
"""A node takes a connection in this time, or another one is tried: the kernel has asked twice by then."""
MAX_IDLE = 256
"""Idle connections kept per backend address; when more requests come at once, the others connect anew."""


class Pool:
    """
    The idle connections to all backends, and the exchanges under way; make it inside the loop that runs it.

    *connect_s* bounds each attempt to open a new connection; one to a node takes no more than `NODE_S`.
    *idle* has no address without a connection.
    """

    def __init__(self, *, connect_s: float) -> None:
        self.connect_s = connect_s
        self.loop = asyncio.get_running_loop()
        self.under_way: Sweep[Exchange] = Sweep(self.loop)
        self.idle: dict[Address, deque[BackendConnection]] = {}
        self._is_closed = False

    async def send(
        self,
        target: Target,
        headers: list[tuple[str, str]],
        body: bytes,
        bounds: Bounds,
        *,
        method: str = "POST",
        fresh: bool = False,
        node: AtNode | None = None,
    ) -> Exchange:
        """
        Send one request, to that *node* if it goes to one.

        The exchange owns the connection and has to be ended by `with`.  With *fresh* no idle connection is
        used.  Raises `BackendDown` when no connection can be had, and nothing was sent then.
        """
        head = target.head(method, (*headers, ("Content-Length", str(len(body)))))
        connection = None if fresh else self._take((target.host, target.port, target.tls))
        if connection is None:
            connection = await self._open(target, min(self.connect_s, NODE_S) if node else self.connect_s)
            if node is not None:
                watch_node(connection.transport.get_extra_info("socket"))
        exchange = Exchange(connection, self.loop, bounds, self.under_way, node)
        connection.write(exchange, head, body)
        return exchange

    def stop(self, error: DmapError) -> None:
        """End every exchange that is under way, broken by *error*."""
        for exchange in self.under_way:
            exchange.stop(error)

    def leave(self, node: str, error: DmapError) -> None:
        """End what waits at *node* and is not granted, with *error*: that it may go elsewhere."""
        for exchange in self.under_way:
            at = exchange.node
            if at is not None and at.waits and at.name == node:
                exchange.stop(error)

    async def close(self) -> None:
        """Close every idle connection, and from now on each that becomes idle."""
        self._is_closed = True
        for connections in self.idle.values():
            for connection in connections:
                connection.close()
        self.idle.clear()

    def _take(self, address: Address) -> BackendConnection | None:
        """Return the idle connection used last that is still fresh."""
        now, idle = self.loop.time(), self.idle.get(address)
        while idle:
            connection = idle.pop()
            if not idle:
                del self.idle[address]
            if connection.state is State.IDLE and now - connection.idle_since < MAX_IDLE_S:
                return connection
            connection.close()
        return None

    def _keep(self, connection: BackendConnection) -> None:
        """Keep *connection*, which has nothing left to read, for the next request."""
        if self._is_closed:
            connection.close()
            return
        idle = self.idle.setdefault(connection.address, deque())
        while idle and (len(idle) >= MAX_IDLE or connection.idle_since - idle[0].idle_since > MAX_IDLE_S):
            idle.popleft().close()
        idle.append(connection)

    def _forget(self, connection: BackendConnection) -> None:
        """Drop an idle *connection* that has ended, and its address with the last one."""
        idle = self.idle.get(connection.address)
        if idle is not None and connection in idle:
            idle.remove(connection)
            if not idle:
                del self.idle[connection.address]

    async def _open(self, target: Target, within_s: float) -> BackendConnection:
        place, context = (target.host, target.port, target.tls), target.context
        name = target.host if context is not None else None

        def make() -> BackendConnection:
            return BackendConnection(self.loop, place, give_back=self._keep, forget=self._forget)

        async def attempt(address: str) -> BackendConnection:
            there = address, target.port
            return (await self.loop.create_connection(make, *there, ssl=context, server_hostname=name))[1]

        try:
            async with patient(within_s):
                return await HOSTS.connect(target.host, attempt)
        except OSError as exc:
            if exc.errno in (errno.EMFILE, errno.ENFILE):
                raise Overloaded("dmap has no file descriptor left", retry_after_s=5) from exc
            reason = trouble_of(exc, within_s)
            raise BackendDown(f"the backend cannot be reached: {reason}", retry_after_s=2) from exc
