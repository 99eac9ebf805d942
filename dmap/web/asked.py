"""What one request asks for: its body, read once, and what each server gets of it."""

from dmap.models import ModelKey, Route
from dmap.wire.body import Call, check_permits, peek
from dmap.wire.fitting import fit
from dmap.wire.form import content_type_of, peek_form, put_model
from dmap.wire.parameters import Wording
from dmap.wire.routes import InferenceRoute
from dmap.wire.shape import check_shape

SAMPLE_BYTES = 2**20
"""A body up to this size is kept until its answer has ended, for `ContextGuard.learn`."""
_JSON = "application/json"


class Asked:
    """
    A request for *path* with its *body*, JSON or a form, which is read here.

    *model* is None if it names none, *stream* tells whether it wants a stream.  *content_type* is what a
    server is told of the body, in dmap's own words, so that it can read it no other way.
    """

    __slots__ = ("_body", "_call", "_calls", "_written", "content_type", "model", "path", "sample", "stream")

    def __init__(self, path: InferenceRoute, content_type: str, body: bytes) -> None:
        self.path = path
        self.sample = b""
        """The body as it was sent, if it is small; `drop` leaves it."""
        self._body = body
        self._call: Call | None = None
        self._calls: dict[ModelKey, Call] = {}
        self._written: dict[ModelKey, bytes] = {}
        if path.form and content_type.lower().startswith("multipart/"):
            self.model, self.stream = peek_form(body, content_type)
            self.content_type = content_type_of(content_type)
        else:
            self._call = peek(body)
            self.model, self.stream = self._call.model, self._call.stream
            self.content_type = _JSON

    def check(self, route: Route, words: Wording, permits: frozenset[str]) -> None:
        """
        Raise `BadRequest` for what no server would take, or what this request may not ask of *route*'s model.

        *words* are those that its server reads.  *permits* are the guarded fields that the client may use,
        beside those of *route*.
        """
        if self._call is None:
            return
        call = fit(
            self._call,
            words,
            model=route.key.model,
            defaults=route.defaults,
            force=route.force,
            strip=route.strip,
        )
        check_permits(self._call, route.permit | permits, route.strip)
        check_shape(self.path.path, self._call.fields)
        self._calls[route.key], self.stream = call, call.stream

    def fitted(self, route: Route) -> bytes:
        """Return the body as the server of *route* shall have it; after `check`, and before `drop`."""
        body = self._written.get(route.key)
        if body is None:
            body = self._written[route.key] = self._write(route)
            self.sample = body if len(body) <= SAMPLE_BYTES else b""
        return body

    def drop(self) -> None:
        """Let go of the body, which may be large; nobody needs it once the answer has begun."""
        self._body, self._call = b"", None
        self._calls.clear()
        self._written.clear()

    def _write(self, route: Route) -> bytes:
        model = route.key.model
        if self._call is None:
            return self._body if model == self.model else put_model(self._body, self.content_type, model)
        call = self._calls[route.key]
        return self._body if call is self._call else call.written()
