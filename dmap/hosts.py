"""
The addresses of hosts that are called by a name.

A name server that does not answer holds whoever asks it for many seconds, and uvloop asks for all names with
four threads: one dead name would keep all other hosts from being found.  So each name is asked for in a
thread of its own, once at a time, and where no answer comes, the last one holds.
"""

import asyncio
import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

FRESH_S = 5.0
"""So long nobody asks again."""
PATIENCE_S = 0.25
"""So long who asks again waits, where there is an older answer."""

_Made = TypeVar("_Made")
Find = Callable[[str], list[str]]


def _find(name: str) -> list[str]:
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


class Hosts:
    """
    What is known of hosts.  *find* returns the addresses of one, and may take its time or raise OSError.

    Its answer is good for *fresh_s*.
    """

    def __init__(self, find: Find = _find, fresh_s: float = FRESH_S) -> None:
        self._find, self._fresh_s = find, fresh_s
        self._known: dict[str, tuple[float, list[str]]] = {}
        self._asked: dict[str, Future[list[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        """Return the addresses of *host*, at least one; raises OSError."""
        if is_address(host):
            return [host]
        at, known = self._known.get(host, (0.0, []))
        if known and time.monotonic() - at < self._fresh_s:
            return known
        asked = self._asked.get(host)
        if known and asked is not None:
            return known
        try:
            async with asyncio.timeout(PATIENCE_S if known else None):
                return await asyncio.wrap_future(asked or self._ask(host))
        except TimeoutError:
            return known
        except socket.gaierror as exc:
            if known and exc.errno == socket.EAI_AGAIN:  # nobody has said that there is no such host
                return known
            raise

    async def connect(self, host: str, attempt: Callable[[str], Awaitable[_Made]]) -> _Made:
        """Return what *attempt* makes of the first address of *host* that answers; raises OSError."""
        *others, last = await self.addresses(host)
        for address in others:
            with contextlib.suppress(OSError):
                return await attempt(address)
        return await attempt(last)

    def _ask(self, host: str) -> Future[list[str]]:
        answer = self._asked[host] = Future[list[str]]()
        answer.set_running_or_notify_cancel()  # who leaves does not cancel it

        def ask() -> None:
            try:
                found = self._find(host)
                self._known[host] = time.monotonic(), found
                del self._asked[host]
                answer.set_result(found)
            except BaseException as exc:
                self._asked.pop(host, None)
                answer.set_exception(exc)

        try:
            threading.Thread(target=ask, name="host", daemon=True).start()
        except RuntimeError as exc:  # there are too many threads on this host
            del self._asked[host]
            raise OSError(str(exc)) from exc
        return answer


def is_address(host: str) -> bool:
    """Tell whether *host* is an address, of either version, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


HOSTS = Hosts()
"""Those of this process."""
