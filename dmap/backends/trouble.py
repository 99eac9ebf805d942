"""What is said when a server cannot be reached."""

import os
import ssl

import aiohttp


def trouble_of(exc: Exception) -> str:
    """Say what went wrong on the way, without the address: where the server is, is its owner's business."""
    cause = getattr(exc, "os_error", None) or getattr(exc, "certificate_error", None) or exc
    if isinstance(cause, ssl.SSLError):
        return f"TLS fails ({cause.reason})"
    if isinstance(cause, OSError) and cause.errno is not None:
        known = os.strerror(cause.errno) if cause.errno > 0 else cause.strerror
        return str(known or type(cause).__name__).lower()
    if isinstance(cause, aiohttp.ClientResponseError):
        return "what it says is not HTTP"
    return "no connection" if isinstance(exc, aiohttp.ClientConnectorError) else "the connection broke"
