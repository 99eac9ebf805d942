"""What one request asks for: its body, read once, and what each server gets of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from dmap.models import ModelKey, Route
from dmap.wire.acts import acts
from dmap.wire.body import Call, check_permits, peek
from dmap.wire.fitting import changes, fit
from dmap.wire.form import Form, content_type_of, peek_form
from dmap.wire.repeat import key_of, may_repeat
from dmap.wire.routes import InferenceRoute, Wording
from dmap.wire.shape import check_shape

SAMPLE_BYTES = 64 * 1024
"""A request with a body up to this size is kept until its answer has ended, for `ContextGuard.learn`."""

_NOTHING = Call(None, False, b"", {}, {})


class Asked:
    """
    A request for *path* with its *body*, JSON or a form, which is read here.

    *model* is None if it names none, *stream* tells whether it wants a stream.  *content_type* is what a
    server is told of the body, in dmap's own words, so that it can read it no other way; it is empty where
    there is no body.  *size* is that of the body in bytes.
    """

    __slots__ = (
        "_call",
        "_fitted",
        "_read",
        "acts",
        "changes",
        "content_type",
        "model",
        "path",
        "sample",
        "size",
        "stream",
    )

    def __init__(self, path: InferenceRoute, content_type: str, body: bytes) -> None:
        self.path = path
        self.size = len(body)
        self.sample: Call | None = None
        """What its server was sent, if it is JSON of up to `SAMPLE_BYTES`; `drop` leaves it."""
        self.acts = False
        """Whether it does more than have a model answer, so that it must not be sent twice; after `check`."""
        self.changes: Mapping[str, Sequence[str]] = {}
        """Which of its members dmap filled in, forced and stripped; after `check`."""
        self._read: Call | Form | None
        self._call: Call | None = None
        self._fitted: dict[ModelKey, bytes | Callable[[], bytes]] = {}
        if path.form and content_type.lower().startswith("multipart/"):
            self._read, self.content_type = peek_form(body, content_type), content_type_of(content_type)
        elif path.empty and not body:
            self._read, self.content_type = _NOTHING, ""
        else:
            self._read, self.content_type = peek(body), "application/json"
        self.model, self.stream = self._read.model, self._read.stream

    @property
    def fields(self) -> Mapping[str, Any]:
        """Its outermost members as its client wrote them, before `drop`; none of a form."""
        return self._read.read if isinstance(self._read, Call) else {}

    def check(self, route: Route, words: Wording, permits: frozenset[str]) -> Call | None:
        """
        Raise `BadRequest` for what no server would take, or what this request may not ask of *route*'s model.

        Return it as its server shall have it, if it is JSON.  *words* are those that its server reads.
        *permits* are the guarded fields that the client may use, beside those of *route*.
        """
        read = self._read
        assert read is not None, "a request is checked before its body is dropped"
        if isinstance(read, Form):
            check_permits(read.needs, route.permit | permits, frozenset())
            self._fitted[route.key] = partial(read.written, route.name)
            return None
        call = fit(
            read, words, model=route.name, defaults=route.defaults, force=route.force, strip=route.strip
        )
        check_permits(read.needs, route.permit | permits, route.strip)
        check_shape(self.path.contents, read.fields)
        self._fitted[route.key], self.stream = call.written, call.stream
        self.changes = changes(call, route.force, words)
        self.acts = acts(call.fields)
        self.sample = call if self.size <= SAMPLE_BYTES else None
        self._call = call
        return call

    def check_as_is(self, route: Route, permits: frozenset[str]) -> None:
        """
        Raise `BadRequest` for what this request may not ask of *route*'s server, which gets it as it is.

        Only another name of the model is replaced.
        """
        read = self._read
        assert read is not None, "a request is checked before its body is dropped"
        check_permits(read.needs, route.permit | permits, frozenset())
        if read.model in (None, route.name):
            self._fitted[route.key] = read.body
        elif isinstance(read, Form):
            self._fitted[route.key] = partial(read.written, route.name)
        else:
            self._fitted[route.key] = read._replace(fields={**read.fields, "model": route.name}).written

    @property
    def may_repeat(self) -> bool:
        """Whether it may have an answer that was kept; after `check`, and before `drop`."""
        return self._call is not None and may_repeat(self.path, self._call)

    def key(self, made_with: str, who: Sequence[str], told: Sequence[str]) -> bytes:
        """Return what an answer to it is kept under, see `key_of`; where it `may_repeat`."""
        assert self._call is not None, "only JSON that was checked may repeat"
        return key_of(self.path.path, made_with, who, told, self._call)

    def fitted(self, route: Route) -> bytes:
        """Return the body as the server of *route* shall have it; after `check`, and before `drop`."""
        fitted = self._fitted[route.key]
        if not isinstance(fitted, bytes):
            fitted = self._fitted[route.key] = fitted()
        return fitted

    def drop(self) -> None:
        """Let go of the body, which may be large; nobody needs it once the answer has begun."""
        self._read = self._call = None
        self._fitted.clear()
