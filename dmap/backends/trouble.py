"""What is said when a server cannot be reached."""

import os
import ssl


def trouble_of(exc: OSError, connect_s: float | None) -> str:
    """
    Say what went wrong on the way, without the address: where the server is, is its owner's business.

    *connect_s* was the bound for the connection.
    """
    if isinstance(exc, TimeoutError) and exc.errno is None:
        return f"no connection within {connect_s:g} s"
    if isinstance(exc, ssl.SSLError):
        return f"TLS fails ({exc.reason})"
    if exc.errno is None:
        return "the connection broke"
    known = os.strerror(exc.errno) if exc.errno > 0 else exc.strerror
    return str(known or type(exc).__name__).lower()
