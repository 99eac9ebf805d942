"""
Whose a model server is: two dmaps that switch the models of one would unload them under each other.

On one host the kernel keeps the order.  Each server that a dmap switches stands for a name in the abstract
namespace of sockets (unix(7)): only one process can have it, whoever it runs as and whatever folders it may
see, no file is left over, and the kernel frees the name however the process ends.  The namespace is that of
the network, so containers with one of their own do not see each other; the lease in Redis does (`shared`).
It is a guard against mistakes, not a fence.

The GPUs that a configuration names stand for names, too.  Two dmaps may well share a card, each with a part
of its memory, so that is told and no more.
"""

import asyncio
import contextlib
import errno
import functools
import hashlib
import ipaddress
import logging
import os
import socket
import struct
import threading
from collections.abc import AsyncGenerator, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from dmap.config import Config, ConfigProblem
from dmap.logfmt import Line
from dmap.sections.types import is_loopback

WAIT_S = 2.0
"""How long the end of the one before is waited for: it may be about to end."""
ASK_S = 2.0
"""How long the other dmap may take to say which one it is: their host may be busy."""
RESOLVE_S = 0.5
"""How long a name may take to be found."""
ADDRESSES = 16
"""So many of a name are looked at."""
TOLD = 512
"""Bytes of that, at the most."""

_log = logging.getLogger(__name__)

_BRIDGE = ipaddress.ip_network("172.17.0.0/16")
"""What Docker gives to the containers of each host, and to the host itself."""
_BOOT = "/proc/sys/kernel/random/boot_id"
_PORTS = {"http": 80, "https": 443}
_TURN_S = 0.05


def servers_of(config: Config) -> dict[str, str]:
    """Return the URLs of servers that others could switch, too, by the backends of *config*."""
    sections = config.backends.items()
    return {name: section.switched_at for name, section in sections if section.switched_at is not None}


def cards_of(config: Config) -> dict[str, str]:
    """Return the devices of *config* by the GPUs that they are."""
    return {str(gpu): name for name, device in config.devices.items() for gpu in device.gpus}


def is_here(host: str) -> bool:
    """Tell whether *host* is this host: by loopback, its name, or an address that is its own."""
    if is_loopback(host) or host.lower() == socket.gethostname().lower():
        return True
    return any(_is_own(*found) for found in _addresses(host))


@functools.lru_cache
def _addresses(host: str) -> list[tuple[int, Any]]:
    """Return the families and addresses of *host*; none where no resolver tells them within `RESOLVE_S`."""
    found = list[tuple[int, Any]]()

    def look(flags: int = 0) -> None:
        with contextlib.suppress(OSError, UnicodeError):
            all_of_it = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM, flags=flags)
            found.extend((each[0], each[4]) for each in all_of_it)

    look(socket.AI_NUMERICHOST)  # for which nobody is asked
    if not found:
        looking = threading.Thread(target=look, daemon=True)  # a resolver may take long
        looking.start()
        looking.join(RESOLVE_S)
    return found[:ADDRESSES]


def _is_own(family: int, address: Any) -> bool:
    """Tell whether packets to *address* stay here: then they leave from there, too.  None is sent."""
    if ipaddress.ip_address(address[0].partition("%")[0]).is_unspecified:
        return True  # Linux takes it for loopback
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(address)
        except OSError:
            return False
        return bool(sock.getsockname()[0] == address[0])


def place_of(url: str) -> tuple[str, int]:
    """Return host and port of *url*; every spelling of this host is `localhost`."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    return "localhost" if is_here(host) else host, parts.port or _PORTS.get(parts.scheme, 0)


@contextlib.asynccontextmanager
async def owning(
    servers: Mapping[str, str], told: str, cards: Mapping[str, str] = MappingProxyType({})
) -> AsyncGenerator[None]:
    """
    Be the one dmap of this host that switches *servers*, URLs by their backends, while the context is open.

    Others learn by *told* which one this is.  Raises `ConfigProblem` that names the other one, if that does
    not end within `WAIT_S`.  Another one that has one of *cards*, devices by their GPUs, is told in the log.
    """
    loop, held = asyncio.get_running_loop(), list[socket.socket]()

    async def hold(what: str, within_s: float) -> None:
        sock = await _held(what, within_s)
        held.append(sock)
        loop.add_reader(sock, _introduce, sock, told)

    try:
        for place in dict.fromkeys(map(place_of, servers.values())):
            backend = next(name for name, url in servers.items() if place_of(url) == place)
            try:
                await hold(f"{place[0]}:{place[1]}", WAIT_S)
            except _Taken as exc:
                problem = f"another dmap on this host switches the models of this server: {exc}; only one may"
                raise ConfigProblem([f"backends.{backend}.url: {problem}"]) from None
            except OSError as exc:  # no such sockets here, or not for us: that is no other dmap
                told_why = {"backend": backend, "reason": f"no lock on this host: {exc.strerror}"}
                _log.warning(Line("server_unchecked", told_why))
        for card, device in cards.items():
            try:
                await hold(f"gpu {card}", 0.0)
            except _Taken as exc:
                _log.warning(Line("gpu_of_another", {"device": device, "gpu": card, "by": exc}))
            except OSError:
                break  # said of the servers; without one nobody has to know
        yield
    finally:
        for sock in held:
            loop.remove_reader(sock)
            sock.close()


class _Taken(Exception):
    """Another process, which is told, has the name."""


async def _held(what: str, within_s: float) -> socket.socket:
    """Return the socket that has the name of *what*; raises `_Taken`, or `OSError` if there can be none."""
    name = b"\0dmap/" + hashlib.sha256(what.encode()).hexdigest()[:32].encode()
    clock = asyncio.get_running_loop().time
    until = clock() + within_s
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(name)
            sock.listen()
            return sock
        except OSError as exc:
            sock.close()
            if exc.errno != errno.EADDRINUSE:
                raise
        if clock() >= until:
            raise _Taken(await asyncio.to_thread(_ask, name))
        await asyncio.sleep(_TURN_S)


def _introduce(sock: socket.socket, told: str) -> None:
    """Tell the one who asks at *sock* which dmap this is."""
    with contextlib.suppress(OSError):
        asker, _ = sock.accept()
        with asker:
            asker.send(told.encode(errors="replace")[:TOLD])


def _ask(name: bytes) -> str:
    """Return which process has *name*, and what it says of itself if it says anything."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(ASK_S)
        try:
            sock.connect(name)
        except OSError:
            return "one that is about to end"
        pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        told = ""
        with contextlib.suppress(OSError):
            told = sock.recv(TOLD).decode(errors="replace")
    words = "".join(each for each in told if each.isprintable())
    return f"pid {pid}, {words}" if words else f"pid {pid}"


def own_name() -> str:
    """Return what this host is called, with what tells it from another one of the same name."""
    number = _read("/etc/machine-id") or _read(_BOOT)  # a container may lack the first
    return f"{socket.gethostname()}/{hashlib.sha256(number.encode()).hexdigest()[:8]}"


def names_of(url: str) -> list[str]:
    """
    Return what this and other hosts may call the server at *url*: its host by name and by address.

    A name that each host has for another server, as `lmstudio` in a compose file, is one of this host only.
    """
    host, port = place_of(url)
    if host != "localhost":
        return [f"{_kernel()}/{host}:{port}" if _is_local(host) else f"{host}:{port}"]
    spelled = (urlsplit(url).hostname or "").lower()
    known = [] if is_loopback(spelled) or _is_local(spelled) else [spelled]
    names = dict.fromkeys((socket.gethostname().lower(), *_own_address(), *known))
    return [f"{each}:{port}" for each in names]


def _is_local(host: str) -> bool:
    """Tell whether *host* may be another one seen from another host."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(".internal")
    return address.is_link_local or (address.version == 4 and address in _BRIDGE)


def _kernel() -> str:
    """Return what the containers of this host have in common with each other, and with no other host."""
    return _read(_BOOT) or own_name()


def _read(path: str) -> str:
    """Return the number in the file at *path*, nothing if there is none."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read(64).strip()
    except (OSError, ValueError):
        return ""


def _own_address() -> list[str]:
    """Return the address that others reach this host by, as far as the routes tell; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # RFC 5737: nobody's address
        except OSError:
            return []
        address: str = sock.getsockname()[0]
        return [address]


def here() -> str:
    """Return what this process is called where events of several dmaps stand side by side."""
    return f"{socket.gethostname()}/{os.getpid()}"


def told_of(file: str = "") -> str:
    """Return what others are told of this process, whose configuration is *file*."""
    return f"{f'{file} ' if file else ''}on {socket.gethostname()}, pid {os.getpid()}"
