"""
Every refusal and failure that a client can be told, with its HTTP status.

DmapError
  caller's fault
    BadRequest 400          AccessDenied 403        UploadTimeout 408
    InvalidKey 401          PathNotFound 404        BodyTooLarge 413
    Invalid 400             ModelNotFound 404       EncodedBody 415
    ContextExceeded 400     RequestNotFound 404     Misdirected 421
                            MethodNotAllowed 405    Overloaded 429
  backend's fault
    LoadFailed 502          BackendBroke 502        BackendSlow 504
    BackendDown 503         Unanswered 502          BackendDied 502
    NodeSilent 503                                  Relayed (as it was told)
  ours
    WaitExpired 503         ShuttingDown 503        NotBuilt 501
    LeaseExpired 504        ClientStalled 504       Internal 500
    Cancelled 503           NotSaved 500            NotShared 503
    Drained 503

Status, `type` and `code` are class data (OpenAI's spellings where it has one).  Those that a client should
not try again by itself are `Final`.  `web/app.py` turns one of these into a response.  The relay writes one
into a stream whose head is out already.
"""

from typing import Any

RETRY_AFTER_S = (1, 60)
"""OpenAI's Node client ignores a `Retry-After` over 60 s, Python's gives up over 120 s."""
SAID = "; its last lines: "
"""In a message, before what a server has written itself: that may be for its owner alone."""
OTHERS = " are used by others: "
"""In a message, behind a size: before processes of the host, which may be for its owner alone, too."""


class DmapError(Exception):
    """
    A failure with a status, told in OpenAI's shape.

    *message* says what was tried, on what, and what to do.  *param* names the field of the body at fault.
    *retry_after_s* is an estimate in seconds; it is told rounded up and kept within `RETRY_AFTER_S`.  With
    *elsewhere* it is the place that is wrong: nobody has begun with the request, and another one may do.
    """

    status: int = 500
    type: str = "server_error"
    code: str = "internal_error"
    should_retry: bool | None = None
    elsewhere: bool = False

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error envelope; `src` tells it from one that a backend wrote."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error, "src": "dmap"}

    def leave_out_lines(self) -> None:
        """Make it an error for those who may not read the logs of models, nor know what runs on the host."""
        seen, said, _ = self.message.partition(SAID)
        seen, others, _ = seen.partition(OTHERS)
        seen += others.rstrip(": ")
        self.message = f"{seen}; 'dmap logs' shows dmap's owner what its server has written" if said else seen

    def headers(self) -> dict[str, str]:
        """Return what tells a client whether and when to try again."""
        headers = {}
        if self.retry_after_s is not None:
            least, most = RETRY_AFTER_S
            headers["Retry-After"] = str(max(least, min(most, -int(-self.retry_after_s // 1))))
        if self.should_retry is not None:
            headers["x-should-retry"] = str(self.should_retry).lower()
        return headers


class Final(DmapError):
    """A failure that would only come again: a client should not try again by itself."""

    should_retry = False


class BadRequest(DmapError):
    """The body or a field of it is not what the route takes."""

    status, type, code = 400, "invalid_request_error", "invalid_request"


class Invalid(BadRequest):
    """An order or a file with several faults.  The message lists all of them, and so does *problems*."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems), param=problems[0].partition(":")[0])
        self.problems = problems

    def body(self) -> dict[str, Any]:
        """Return the envelope with one more member, `problems`, beside the message."""
        envelope = super().body()
        return envelope | {"error": envelope["error"] | {"problems": self.problems}}


class RequestNotFound(DmapError):
    """No open request has this id."""

    status, type, code = 404, "invalid_request_error", "request_not_found"


class ContextExceeded(DmapError):
    """The prompt has more tokens than the model's context."""

    status, type, code = 400, "invalid_request_error", "context_length_exceeded"
    elsewhere = True


class InvalidKey(DmapError):
    """No API key, or one that the configuration does not have."""

    status, type, code = 401, "invalid_request_error", "invalid_api_key"


class AccessDenied(DmapError):
    """The address, the scope or the model is not on this client's lists."""

    status, type, code = 403, "permission_error", "access_denied"


class PathNotFound(DmapError):
    """No such route, or not in this spelling."""

    status, type, code = 404, "invalid_request_error", "unknown_path"
    elsewhere = True


class MethodNotAllowed(DmapError):
    """The path is there, but not for this method; *allowed* lists those that it takes."""

    status, type, code = 405, "invalid_request_error", "invalid_request"

    def __init__(self, message: str, *, allowed: str = "") -> None:
        super().__init__(message)
        self._allowed = allowed

    def headers(self) -> dict[str, str]:
        """Return also the methods that are taken (RFC 9110 section 15.5.6)."""
        return super().headers() | {"Allow": self._allowed}


class ModelNotFound(DmapError):
    """No backend has this model."""

    status, type, code = 404, "invalid_request_error", "model_not_found"
    elsewhere = True


class Misdirected(DmapError):
    """A front asked a node for what that has not, or has from others only (RFC 9110 section 15.5.20)."""

    status, type, code = 421, "invalid_request_error", "misdirected"
    elsewhere = True


class UploadTimeout(Final):
    """The body did not arrive within `server.body_s`."""

    status, type, code = 408, "invalid_request_error", "upload_timeout"


class BodyTooLarge(DmapError):
    """The body is larger than `server.max_body`."""

    status, type, code = 413, "invalid_request_error", "body_too_large"


class EncodedBody(DmapError):
    """The body is packed, with gzip or otherwise; dmap takes it as it is."""

    status, type, code = 415, "invalid_request_error", "encoded_body"

    def headers(self) -> dict[str, str]:
        """Return also the one encoding that is taken (RFC 9110 section 12.5.3)."""
        return super().headers() | {"Accept-Encoding": "identity"}


class Overloaded(DmapError):
    """A queue or a client's share of it is full, or a client asks too often."""

    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"
    elsewhere = True


class LoadFailed(Final):
    """The model could not be loaded; the message carries the server's own reason."""

    status, type, code = 502, "backend_error", "model_load_failed"
    elsewhere = True


class BackendBroke(Final):
    """A backend's answer ended early or made no sense."""

    status, type, code = 502, "backend_error", "backend_broke"


class Unanswered(BackendBroke):
    """A backend closed the connection without a byte of its answer."""


class BackendDied(DmapError):
    """A node was lost that had begun with the request, and nothing of its answer had come."""

    status, type, code = 502, "backend_error", "backend_died"
    should_retry = True


class BackendDown(DmapError):
    """A backend does not answer, or a model is in back-off after a failed load."""

    status, type, code = 503, "backend_error", "backend_down"
    elsewhere = True


class NodeSilent(BackendDown):
    """A node takes requests and tells nothing of one, though it may tell how it stands."""


class BackendSlow(Final):
    """No first byte within `server.first_byte_s`, or silence longer than `server.idle_s`."""

    status, type, code = 504, "backend_error", "backend_slow"


class Drained(DmapError):
    """The owner has the device serve nobody for now; who may go nowhere else waits, and never hears of it."""

    status, type, code = 503, "server_error", "drained"
    elsewhere = True


class Relayed(DmapError):
    """An error that a backend told.  Status, code and type are its own, so they differ by instance."""

    def __init__(self, message: str, *, status: int, code: str, type: str = "backend_error") -> None:
        super().__init__(message)
        self.status, self.code, self.type = status, code, type


class WaitExpired(DmapError):
    """The request waited longer than the device's `wait_s`."""

    status, type, code = 503, "server_error", "wait_expired"


class ShuttingDown(DmapError):
    """The daemon is about to end."""

    status, type, code = 503, "server_error", "shutting_down"


class LeaseExpired(Final):
    """The request held its model for longer than the device's `lease_s`."""

    status, type, code = 504, "server_error", "lease_expired"


class ClientStalled(Final):
    """The client did not read for `server.client_stall_s`, added up over the stream."""

    status, type, code = 504, "server_error", "client_stalled"


class Cancelled(Final):
    """The person who runs dmap has ended this request."""

    status, type, code = 503, "server_error", "cancelled"


class NotSaved(Final):
    """What was set is in effect, but the state file could not be written."""

    status, type, code = 500, "server_error", "not_saved"


class NotShared(DmapError):
    """What was to be set for all dmaps could not be told to them, so it was not set."""

    status, type, code = 503, "server_error", "not_saved"


class NotBuilt(Final):
    """Something that clients of other servers use, and dmap does not have yet."""

    status, type, code = 501, "server_error", "not_implemented"


class Internal(DmapError):
    """A bug of dmap's own."""
