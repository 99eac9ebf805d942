"""What a file of llama-swap says beside its models: where it listens, who may ask, what is logged."""

import hashlib
from collections.abc import Collection, Iterator, Mapping

from dmap.moving.source import Table, resolved, variable
from dmap.moving.text import Block, Entry, shown

PORT = 8080
"""Where llama-swap listens unless its command line says otherwise."""

_FIRST, _LEAST, _LAST = 5800, 100, 65535
_LEVELS = {"debug": "debug", "info": "info", "warn": "warning", "error": "error"}

_NO_EQUAL = {
    "captureBuffer": "dmap keeps no bodies unless debug.capture is true",
    "includeAliasesInList": "dmap's list has all aliases",
    "logRequests": "each request has a line in dmap's log anyhow",
    "logToStdout": "dmap logs to stderr; `dmap logs MODEL` has what a model's server says",
    "metricsMaxInMemory": "the activity log has a size in bytes, see activity",
    "performance": "GET /metrics has dmap's figures; those of the machine are for other tools",
    "profiles": "a name means another model only after a reload; POST /admin/models/activate "
    "has one model for requests that name none",
    "sendLoadingState": "a stream that waits gets comments with its place in the queue (server.heartbeat_s)",
    "store": "the activity log is kept beside the state file, see activity",
    "ui": "dmap has no pages; `dmap status` and `dmap tail` show who waits and why",
    "upstream": "dmap has no /upstream; what its models can do is at /v1",
}


def of_access(raw: Table, environ: Mapping[str, str]) -> Iterator[Entry]:
    """Yield the sections `listen` and `access`."""
    keys = list(_keys(raw.texts("apiKeys"), environ))
    listen: list[Entry | str] = [
        "llama-swap's port, and where it listens: take what its command line said (-listen)"
    ]
    if not keys:
        listen.append("beyond loopback dmap starts only with keys, an allowlist or access.open")
    listen += [Entry("host", "0.0.0.0" if keys else "127.0.0.1"), Entry("port", PORT)]
    yield Entry("listen", Block(listen))
    if keys:
        what = (
            "a name stands for its key in logs, and for a client in the queue: give each app one.  A key of "
            "llama-swap may do everything; here add the scopes debug and admin for whoever runs the box"
        )
        yield Entry("access", Block([what, Entry("keys", keys)]))


def _keys(texts: Collection[str], environ: Mapping[str, str]) -> Iterator[Block]:
    """Yield an item for each key, by its SHA-256; the key itself is never written."""
    for number, text in enumerate(dict.fromkeys(texts), 1):
        name, key = variable(text), resolved(text, environ)
        notes = [f"its key was in the variable {name}"] if name else []
        digest = hashlib.sha256(key.encode()).hexdigest() if key is not None else None
        if digest is None:
            name = name or f"API_KEY_{number}"
            notes = [f'not set here, so: export {name}_SHA256=$(printf %s "${name}" | sha256sum | cut -c-64)']
        yield Block([Entry("name", f"key{number}"), *notes, Entry("sha256", digest or f"${{{name}_SHA256}}")])


def ports(first: int | None, count: int, fixed: Collection[int]) -> tuple[str, str]:
    """Return a range of ports for *count* commands from *first* on, none *fixed*, and what is to say."""
    begin = first if first is not None and 1024 <= first <= _LAST - _LEAST else _FIRST
    moved_on = begin != first and first is not None
    length = min(max(_LEAST, 2 * count), _LAST - begin)
    while hit := [port for port in fixed if begin <= port < begin + length]:
        begin, moved_on = max(hit) + 1, True
        if begin + length > _LAST:
            begin = 20_000
            break
    why = f"not {first or _FIRST}: ports of commands that choose their own lie there" if moved_on else ""
    return f"{begin}-{begin + length - 1}", why


def of_log(raw: Table) -> Iterator[Entry]:
    """Yield the section `log`."""
    parts: list[Entry | str] = []
    level, form = raw.text("logLevel").strip().lower(), raw.text("logTimeFormat")
    if level in _LEVELS and level != "info":
        parts.append(Entry("level", _LEVELS[level]))
    elif level not in ("", "info"):
        parts.append(f"logLevel: {shown(level)} (llama-swap has no such level)")
    if form:
        parts.append(Entry("timestamps", True, f"in ISO 8601; it was {form}"))
    if parts:
        yield Entry("log", Block(parts))


def noted(raw: Table) -> Iterator[str]:
    """Yield a comment for each key that is left in *raw*."""
    for key, value in raw.rest():
        if value not in (False, {}, [], "") or key in _NO_EQUAL:
            yield f"{key}: {shown(value, key)} ({_NO_EQUAL.get(key, 'llama-swap has no such key')})"
