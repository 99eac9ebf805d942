"""
The certificate that dmap shows, from the files of `listen.tls`.

There is one `ssl.SSLContext` for the life of the process.  When its files are read again, new connections
get the new certificate, and open connections keep the one they began with.
"""

import ssl
from pathlib import Path

from dmap.config import ConfigProblem, Tls

_MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL says of a key that is not the certificate's.  The last is said where the algorithms differ."""


class Certificate:
    """A certificate that can be replaced.  Making one raises `ConfigProblem`, as `check` does."""

    def __init__(self, files: Tls) -> None:
        check(files)
        self.context = _fresh()
        self.take(files)

    def take(self, files: Tls) -> None:
        """
        Show new connections what is in *files*, which have just passed `check`.

        Raises `ConfigProblem` if the files were written since then.  New connections fail then until a reload
        succeeds.
        """
        try:
            self.context.load_cert_chain(files.cert, files.key, _no_password)
        except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
            problem = "listen.tls: the files changed while they were read; reload once more"
            raise ConfigProblem([problem]) from exc


def check(files: Tls) -> None:
    """
    Check that *files* can be used, without a change to what is served.

    Raises `ConfigProblem` with everything that is wrong, each line with its path in the configuration.
    """
    problems = [
        f"listen.tls.{field}: {path}: cannot be read: {reason}"
        for field, path in (("cert", files.cert), ("key", files.key))
        if (reason := _unreadable(path))
    ]
    problem = None if problems else _unusable(files)
    if problems or problem:
        raise ConfigProblem([*problems, *([problem] if problem else [])])


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb"):
            return ""
    except OSError as exc:
        return exc.strerror or str(exc)


def _unusable(files: Tls) -> str | None:
    context = _fresh()
    try:
        context.load_verify_locations(cafile=files.cert)
    except ssl.SSLError:
        return f"listen.tls.cert: {files.cert}: no certificate in PEM"
    try:
        context.load_cert_chain(files.cert, files.key, _no_password)
    except ssl.SSLError as exc:
        if exc.reason in _MISMATCH:
            return f"listen.tls.key: {files.key}: not the key of the certificate {files.cert}"
        if exc.reason:  # such as EE_KEY_TOO_SMALL
            return f"listen.tls.cert: {files.cert}: {exc.reason.lower().replace('_', ' ')}"
        return f"listen.tls.key: {files.key}: no key in PEM"
    except ValueError as exc:
        return f"listen.tls.key: {files.key}: {exc}"
    return None


def _fresh() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    """Answer for the person at the terminal, whom OpenSSL would ask."""
    raise ValueError("needs a password; give dmap one without")
