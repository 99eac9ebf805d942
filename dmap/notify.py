"""
What dmap tells the service manager, and what it gets from it: two small protocols of systemd.

sd_notify(3): lines such as READY=1 in a datagram to the socket that NOTIFY_SOCKET names.  sd_listen_fds(3):
listening sockets, from descriptor 3 on.  Without these variables, as in a terminal, nothing happens here.
No failure here reaches the daemon.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping

from dmap.logfmt import Line

_log = logging.getLogger(__name__)

FIRST_FD = 3
"""`SD_LISTEN_FDS_START` of sd-daemon.h."""

STATUS_S = 2.0
"""How often `systemctl status` may see something new."""

_LONGEST = 512
"""Of one value, in characters: systemd drops a datagram of more than 4096 bytes (`NOTIFY_BUFFER_MAX`)."""


def listen_fds(environ: MutableMapping[str, str], pid: int) -> list[int]:
    """
    Return the descriptors that systemd has opened for the process *pid*.  They are now close-on-exec.

    The variables are taken out of *environ*, so that no child takes them for its own (`unset_environment` of
    sd_listen_fds(3)).  The caller owns the descriptors.
    """
    count, owner = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    environ.pop("LISTEN_FDNAMES", None)
    if not count.isdecimal() or owner != str(pid):
        return []
    descriptors = list(range(FIRST_FD, FIRST_FD + int(count)))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return descriptors


class Notifier:
    """
    Tells the service manager how the daemon is, if *environ* asks the process *pid* for that.

    Without an *address* it tells nobody.  The service manager ends the daemon when it has heard nothing for
    *watchdog_s*; None means never.  `status` is called for the one line that `systemctl status` shows.  The
    variables are taken out of *environ*, because a child must not speak for the daemon.
    """

    def __init__(self, environ: MutableMapping[str, str], pid: int) -> None:
        self.address = _address(environ.pop("NOTIFY_SOCKET", ""))
        usec, owner = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(pid))
        is_watched = usec.isdecimal() and int(usec) > 0 and owner == str(pid)  # sd_watchdog_enabled(3)
        self.watchdog_s = int(usec) / 1e6 if is_watched else None
        self.status: Callable[[], str] = lambda: "starting"
        self._unsent: dict[str, str] = {}
        self._is_heard = True

    def ready(self) -> None:
        """Tell that the daemon answers: after the start, and again after each `reloading`."""
        self.tell(READY="1", STATUS=self.status())

    def reloading(self) -> None:
        """Tell that a reload begins, and when: `Type=notify-reload` has to know which reload is meant."""
        self.tell(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))

    def tell(self, **news: str) -> None:
        """
        Send *news*, one line each.  It never waits and never raises.

        What cannot be sent now is sent with the next news, so that a full queue does not swallow a READY.
        """
        for name, value in news.items():
            self._unsent.pop(name, None)  # of READY, RELOADING and STOPPING systemd believes the last line
            self._unsent[name] = " ".join(value.split())[:_LONGEST]
        if self.address is None:
            return
        text = "\n".join(f"{name}={value}" for name, value in self._unsent.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                sock.sendto(text.encode(errors="replace"), self.address)
            self._unsent.clear()
        except OSError as exc:
            if self._is_heard:
                _log.warning(Line("notify_failed", {"reason": str(exc)}))
        self._is_heard = not self._unsent

    async def beat(self) -> None:
        """
        Feed the watchdog and tell the status, for ever.

        It runs on the loop on purpose: a loop that is stuck feeds nothing, so systemd starts the daemon anew.
        """
        pause_s = min(STATUS_S, self.watchdog_s / 2) if self.watchdog_s else STATUS_S
        fed = {"WATCHDOG": "1"} if self.watchdog_s else {}
        while self.address is not None:
            self.tell(**fed, STATUS=self.status())
            await asyncio.sleep(pause_s)


def _address(name: str) -> str | None:
    """Read NOTIFY_SOCKET: a path, or `@` for an abstract socket.  Others, as vsock, lead out of this host."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None
