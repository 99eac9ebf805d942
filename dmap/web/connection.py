"""
aiohttp's side of one client connection, with dmap's words for what never reaches the application.

That is what is no HTTP, an `Expect` that aiohttp does not know, and what goes wrong behind a refusal: all of
it is a client's doing, so it is one line in the log, and never a traceback.
"""

import logging
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from dmap.errors import BadRequest
from dmap.logfmt import logfmt
from dmap.wire.headers import request_id

_log = logging.getLogger("dmap.connection")


class Connection(web.RequestHandler):
    """One client's connection; `daemon` has the server make them."""

    __slots__ = ()

    @property
    def peername(self) -> Any:
        """Where the client is; one of IPv4 on a socket of both families at its address of IPv4 (RFC 4291)."""
        peer = super().peername
        return (peer[0].removeprefix("::ffff:"), *peer[1:]) if peer and "." in peer[0] else peer

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a broken request in OpenAI's shape; a client that has left gets no answer."""
        if isinstance(exc, ConnectionError):
            raise exc  # which ends the connection without a word
        if not isinstance(exc, HttpProcessingError) or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        # Never aiohttp's own words: they quote the bytes, and so the key in a broken header.
        return _refusal(request, f"the request is not HTTP as dmap reads it ({type(exc).__name__})")

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send *resp*; 417 is what aiohttp itself says, in plain text, before the application is asked."""
        if isinstance(resp, web.HTTPExpectationFailed):
            resp = _refusal(request, "Expect takes 100-continue and nothing else", status=resp.status)
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log a bug with its traceback; but not a refused request's body that cannot be unpacked."""
        exc = options.get("exc_info")
        if not isinstance(exc, web.RequestPayloadError):
            return super().log_exception(*args, **options)
        peer = self.peername
        _log.info(logfmt("bad_http", {"client": peer[0] if peer else None, "reason": type(exc).__name__}))


def _refusal(request: web.BaseRequest, words: str, *, status: int = BadRequest.status) -> web.Response:
    """Refuse what the application does not get to see, and end its connection."""
    refusal, id = BadRequest(words), request_id(request.headers)
    _log.info(logfmt("bad_http", {"id": id, "client": request.remote, "reason": words}))
    headers = {"x-request-id": id, "Server": "dmap"}
    response = web.json_response(refusal.body(), status=status, headers=headers)
    response.force_close()
    return response
