"""
What dmap asks of a model server, whatever its kind.

A backend that cannot load or unload is a `Backend`.  One that can is also a `Switcher`: its gate calls `load`
and `unload` one at a time, never two at once on one device.
"""

import os
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from dmap.errors import BackendDown
from dmap.models import ModelInfo
from dmap.placement import Place
from dmap.process import Log
from dmap.sections import ModelSection


@dataclass(frozen=True, slots=True)
class Loaded:
    """
    What a load really gave, which may not be what was asked.

    *placed* is where the model computes, in the server's own words, such as `33/33 layers on CUDA0 (...)`.
    *buffers_bytes* is what the server says that it has allocated there, which is nearer to the truth than the
    estimate *size_bytes*, by which models are told apart that fit.
    """

    size_bytes: int | None = None
    context_length: int | None = None
    parallel: int | None = None
    placed: str | None = None
    buffers_bytes: int | None = None


class Target(NamedTuple):
    """
    Where an inference request goes: *headers* are the backend's own, such as its token.

    *ca* is a file of certificates to check the server's with, in place of the system's.
    """

    host: str
    port: int
    tls: bool
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    ca: str | None = None

    @classmethod
    def of(cls, url: str, api_key: str | None, ca: str | None = None) -> "Target":
        """Return the server at *url* (with or without a closing `/v1`), which is asked with *api_key*."""
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        port = parts.port or (443 if tls else 80)
        headers = (("Authorization", f"Bearer {api_key}"),) if api_key else ()
        return cls(parts.hostname or "", port, tls, parts.path.rstrip("/").removesuffix("/v1"), headers, ca)

    def at(self, path: str) -> "Target":
        """Return our route *path* on this server."""
        return self._replace(path=self.path + path)

    @property
    def context(self) -> ssl.SSLContext | None:
        """What its connections need for TLS, if it has that."""
        return _context(self.ca) if self.tls else None

    def head(self, method: str, headers: Iterable[tuple[str, str]]) -> bytes:
        """Return the head of a request with *headers* and the backend's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"{method} {self.path} HTTP/1.1", f"Host: {host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in (*headers, *self.headers)]
        return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")  # as aiohttp decoded them


class Backend(Protocol):
    """
    A model server.

    The inventory sets *report*.  A backend that looks at its server without being asked calls it after each
    look, with the models that it found or with the reason why there was no answer.
    """

    name: str
    report: Callable[[Sequence[ModelInfo] | BackendDown], None]

    @property
    def url(self) -> str | None:
        """Where it is, for its owner; None if it runs inside dmap."""

    async def models(self) -> Sequence[ModelInfo]:
        """
        Ask what exists and what is resident: the truth now.

        Raises `BackendDown` when the server does not answer.
        """

    def target(self, model: str, path: str) -> Target:
        """Tell where a request for *model* on our route *path* goes; `BackendDown` if it is not up."""

    async def confirm(self) -> None:
        """Check, just before a request, what `target` relies on, where others may have changed it."""

    def means(self, model: str, named: str) -> bool:
        """Tell whether an answer that calls its model *named* is *model*'s."""

    def made_of(self, model: str) -> str | None:
        """
        Return what is known of what *model* is there, its file for one, beside its route and the section.

        It is another text wherever answers may come out otherwise; None where nobody can tell.
        """

    async def close(self) -> None:
        """Let go of everything the backend owns, child processes included.  Idempotent."""


class Forwarding(Backend, Protocol):
    """
    A backend that is another dmap: it tells, *age_s* ago for the last time, what a request waits there.

    *own_run* is set to what this dmap calls its own life, so that it does not take itself for a node.
    """

    own_run: str

    @property
    def age_s(self) -> float:
        """How old the last view of it is, in seconds."""

    @property
    def tells(self) -> bool:
        """Whether what it says before an answer arrives here."""

    @property
    def run(self) -> str:
        """Which life of which dmap the last view is of."""

    @property
    def standing(self) -> Mapping[str, Any]:
        """How it stands by the last view, for whoever looks why it is slow."""

    def doubt(self) -> None:
        """Hear that it told nothing of a request for long: others are asked first for a while."""

    def place(self, model: str, now: float, in_flight: int, coming: int) -> Place:
        """
        Return what is known of a request for *model* there, *now* being the loop's time.

        *in_flight* of our requests are there, for any model, and so many for this one are *coming*.
        """

    def sent(self, model: str, request: str) -> None:
        """Hear that one more request for *model* goes there; *request* is its id."""

    def heard(self, request: str) -> None:
        """Hear that it has told of that request, or that this is over.  Idempotent."""


class Switcher(Backend, Protocol):
    """
    A model server whose residents dmap decides.

    The gate sets two attributes.  The backend calls *changed*, from the loop, when a model may have become
    resident, or vanished, without an order of dmap.  *in_use* tells whether requests for a model are under
    way, even if the copy that they were sent to is gone.

    *contexts* holds, by id, the context lengths that models will be loaded with, where one was set.  It may
    be set anew.  `models` uses it to describe models that are not resident.  *commands* holds, by id, what
    the file says of those models of this backend that are commands; it may be set anew, too.

    Where *frees_at_once* is true, models are processes of its own: the memory of one is free as soon as
    `unload` returns, and a load that is cancelled has stopped then.  Elsewhere the gate waits for a
    cool-down, and has loads go on to their end.
    """

    changed: Callable[[], None]
    in_use: Callable[[str], bool]
    contexts: Mapping[str, int]
    commands: Mapping[str, ModelSection]
    frees_at_once: bool

    def start(self) -> None:
        """Begin to notice what happens outside dmap.  Idempotent; `close` ends it."""

    def doubt(self, model: str) -> None:
        """Hear that *model* did not answer a request: the next `models` makes sure that it can."""

    def satisfies(self, model: str, options: Mapping[str, Any]) -> bool:
        """Tell whether the resident *model*, by the last look, is as a load with *options* would make it."""

    async def check(self, model: str) -> None:
        """
        Make sure that a load of *model* has a chance, before anything is unloaded for it.  It costs little.

        Raises `LoadFailed` or `ModelNotFound` if it has none for certain.
        """

    async def load(self, model: str, options: Mapping[str, Any]) -> Loaded:
        """
        Make *model* resident; return when it answers.  Idempotent.

        *options* are those that the section of its kind does not refuse; it is the one to check them.

        Raises `LoadFailed` with the server's own reason; a cancelled load leaves nothing behind.
        """

    async def unload(self, model: str) -> None:
        """Take *model* out; return when its memory is free.  Idempotent."""

    def log(self, model: str) -> Log | None:
        """Return what the server of *model* has said; None if dmap did not start it, or long ago."""


_CERTIFICATE = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    62: "its certificate is for another name than that in its url",
    64: "its certificate is for another name than that in its url",
}
"""Codes of X509_verify_cert_error_string(3); OpenSSL's own words have the name, which may be an address."""


def trouble_of(exc: OSError, connect_s: float | None) -> str:
    """
    Say what went wrong on the way, without the address: where the server is, is its owner's business.

    *connect_s* was the bound for the connection.
    """
    if isinstance(exc, TimeoutError) and exc.errno is None:
        return f"no connection within {connect_s:g} s"
    if isinstance(exc, ssl.SSLCertVerificationError):
        untrusted = f"its certificate is not trusted here ({exc.verify_message})"
        return _CERTIFICATE.get(exc.verify_code, untrusted)
    if isinstance(exc, ssl.SSLError) and exc.reason == "WRONG_VERSION_NUMBER":
        return "what answers there does not speak TLS"
    if isinstance(exc, ssl.SSLError):
        return f"TLS fails ({exc.reason})"
    if exc.errno is None:
        return "the connection broke"
    known = os.strerror(exc.errno) if exc.errno > 0 else exc.strerror
    return str(known or type(exc).__name__).lower()


@lru_cache(maxsize=16)
def _context(ca: str | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


def ignore(*_: object) -> None:
    """Stand in for a listener, the gate's or the inventory's, until there is one."""


def is_alike(model: str, named: str) -> bool:
    """Tell whether *named* may be a name of *model*: many servers answer with a path or a dated name."""
    asked, answered = model.casefold(), named.casefold()
    return asked in answered or answered in asked
