"""
The certificate that dmap shows, from the files of `listen.tls`, and those by which it checks others'.

There is one `ssl.SSLContext` for the life of the process.  When its files are read again, new connections
get the new certificate, and open connections keep the one they began with.
"""

import ssl
from collections.abc import Iterator
from pathlib import Path

from dmap.config import Config, ConfigProblem, Tls

_MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's reasons for a key that is not the certificate's; the last is that for another algorithm."""


class Certificate:
    """A certificate that can be replaced.  A new one has its *files* checked, and raises as `check` does."""

    def __init__(self, files: Tls) -> None:
        check(files)
        self.context = _fresh()
        self.take(files)

    def take(self, files: Tls) -> None:
        """
        Show new connections what is in *files*, which have just passed `check`.

        Raises `ConfigProblem` if the files have changed since then.  After that, new connections fail until a
        reload succeeds.
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
    if problems := [*_unreadable(files)] or [*_unusable(files)]:
        raise ConfigProblem(problems)


def check_authorities(config: Config) -> None:
    """Check each file `ca` with which the certificate of a server is checked.  Raises `ConfigProblem`."""
    files = {name: getattr(section, "ca", None) for name, section in config.backends.items()}
    named = {f"{config.where(name)}.ca": path for name, path in files.items() if path is not None}
    if problems := [f"{where}: {why}" for where, path in named.items() if (why := _no_authority(path))]:
        raise ConfigProblem(problems)


def _no_authority(path: Path) -> str:
    try:
        ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        return f"{path}: no certificate in PEM"
    except OSError as exc:
        return f"{path}: cannot be read: {exc.strerror}"
    return ""


def _unreadable(files: Tls) -> Iterator[str]:
    for field, path in (("cert", files.cert), ("key", files.key)):
        try:
            path.open("rb").close()
        except OSError as exc:
            yield f"listen.tls.{field}: {path}: cannot be read: {exc.strerror}"


def _unusable(files: Tls) -> Iterator[str]:
    context = _fresh()
    try:
        context.load_verify_locations(cafile=files.cert)
    except ssl.SSLError:
        yield f"listen.tls.cert: {files.cert}: no certificate in PEM"
        return
    try:
        context.load_cert_chain(files.cert, files.key, _no_password)
    except ssl.SSLError as exc:
        if exc.reason in _MISMATCH:
            yield f"listen.tls.key: {files.key}: not the key of the certificate {files.cert}"
        elif exc.reason:  # such as EE_KEY_TOO_SMALL
            yield f"listen.tls.cert: {files.cert}: {exc.reason.lower().replace('_', ' ')}"
        else:
            yield f"listen.tls.key: {files.key}: no key in PEM"
    except ValueError as exc:
        yield f"listen.tls.key: {files.key}: {exc}"


def _fresh() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    """Refuse at once; OpenSSL would ask for the password at the terminal."""
    raise ValueError("needs a password; give dmap one without")
