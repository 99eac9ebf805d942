"""The kinds of values that the configuration has, each with what makes it one, in words for its owner."""

import ipaddress
import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationInfo

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
"""Clients of IPv4, as a socket of both families has them; for us they are addresses of IPv4."""
_ORIGIN = r"\*|https?://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?"
_NO_NAME = "not a name: up to 64 letters, digits, '.', '_' and '-', first a letter or a digit"
_NO_ORIGIN = "not an origin; write it like https://app.example:8443, or *"
_HOST = r"(?=.{1,253}$)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?"
_NO_HOST = "not the name of a host, without port; write it like llm.example.com"
_ROUTE = re.compile("/v1(/(?:chat(?:/completions)?|completions|responses|messages|embeddings|models))/?$")
_NO_KEY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The SHA-256 of nothing: what `printf %s "$KEY" | sha256sum` says when the variable is not set."""


def _bytes(value: Any) -> Any:
    """Read `22GiB`, `64 MiB` or a plain number of bytes."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match and match[2].upper() in _UNITS:
        return int(float(match[1]) * _UNITS[match[2].upper()])
    if isinstance(value, str):
        raise ValueError("not a size; write it like 64MiB or 22GiB")
    return _number(value)


def size_text(count: int) -> str:
    """Write *count* bytes for a person, rounded."""
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"


def _network(value: Any) -> Any:
    try:
        network = ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        raise ValueError("not an address or a network; write it like 192.168.1.0/24") from None
    if "%" in str(network):
        raise ValueError("an address with the name of an interface; leave out what stands behind its %")
    if str(network.network_address) != str(ipaddress.ip_interface(str(value)).ip):
        raise ValueError(f"an address within a network; did you mean {network}?")
    if network.version == 6 and network.subnet_of(_MAPPED):
        raise ValueError("an address of IPv4 in IPv6's form; write it as IPv4, like 192.168.1.0/24")
    return network


def _host(value: str) -> str:
    """Take an address or a name to listen at, and nothing that goes around one."""
    with suppress(ValueError):
        return str(ipaddress.ip_address(value))
    if not re.fullmatch(_HOST, value):
        raise ValueError("not an address of this host; write it like 127.0.0.1 or ::, and its port as port")
    return value


def is_loopback(host: str) -> bool:
    """Tell whether only this host can reach *host*, an address or a name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_url(value: str) -> str:
    """Take the URL of a server; a password in it is refused, because it would be dropped in silence."""
    if not re.match("https?://", value):
        raise ValueError("not a URL; write it like http://127.0.0.1:1234, http:// or https:// included")
    if found := _ROUTE.search(value):
        raise ValueError(f"ends in a route; leave {found[1]} out, for dmap puts the routes there itself")
    with suppress(ValueError):
        parts = urlsplit(value)
        is_more = parts.query or parts.fragment or parts.username is not None or re.search(r"\s", value)
        if parts.hostname and parts.port != 0 and not is_more:
            return value.rstrip("/")
    raise ValueError("not the URL of a server; it has a host, perhaps a port and a path, and nothing else")


def _file(value: Any, asked: ValidationInfo) -> Any:
    """Take a path from the folder of the configuration's file, which is the context `base`."""
    if isinstance(value, str) and re.search(r"\$[A-Za-z_]", value):
        raise ValueError("write a variable of the environment as ${NAME}")
    base = (asked.context or {}).get("base")
    if base is None or not isinstance(value, str):
        return value
    return base / os.path.expanduser(value)


def _number(value: Any) -> Any:
    """Refuse YAML's `on` and `yes`, which pydantic would take for 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number; on, off, yes and no are true and false in YAML")
    return value


def several(value: Any) -> Any:
    """Take one text for a list of one."""
    return (value,) if isinstance(value, str) else value


def _expiry(value: Any) -> datetime:
    """Read a date, whose beginning in UTC counts, or a point in time with its zone (ISO 8601)."""
    try:
        read = datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError("not a date; write it like 2027-01-31") from None
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)


def like(pattern: str, complaint: str) -> AfterValidator:
    """Take what *pattern* matches as a whole, and make *complaint* of anything else."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(complaint)
        return value

    return AfterValidator(check)


Size = Annotated[int, BeforeValidator(_bytes), Field(gt=0, lt=2**63)]
Integer = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, BeforeValidator(_number)]
Seconds = Annotated[Number, Field(gt=0)]
Count = Annotated[Integer, Field(ge=1)]
Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_network)]
Name = Annotated[str, like(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", _NO_NAME)]
Sha256 = Annotated[
    str,
    like(r"(?![0-9A-F]*[A-F][0-9A-F]*$).*", "write the digits of a SHA-256 in small letters"),
    like(r"(?![0-9a-f]{64}\s).*", "only the 64 digits, without what sha256sum writes behind them"),
    like(r"[0-9a-f]{64}", "not a SHA-256; write 64 lower-case hex digits, never the key itself"),
    like(f"(?!{_NO_KEY}).*", "the SHA-256 of an empty key"),
]
Expiry = Annotated[datetime, BeforeValidator(_expiry)]
Origin = Annotated[str, StringConstraints(to_lower=True), like(_ORIGIN, _NO_ORIGIN)]
"""What browsers send in `Origin`: scheme, host and port, nothing after them (RFC 6454)."""
HostName = Annotated[str, like(_HOST, _NO_HOST)]
"""A name of DNS, as browsers send it: those with other letters as `xn--...` (RFC 5891)."""
_Moving = Literal["draft_model", "context_length", "keep_alive", "options"]
Guarded = Literal[_Moving, "integrations", "image_url", "fallbacks", "background"]
"""The fields of a request that move memory, reach out of the box or past dmap; refused unless permitted."""
ListenHost = Annotated[str, AfterValidator(_host)]
Token = Annotated[str, like(r"[\x21-\x7e]*", "not a token; it is one word of ASCII, without 'Bearer'")]
Url = Annotated[str, AfterValidator(check_url)]
File = Annotated[Path, BeforeValidator(_file)]
