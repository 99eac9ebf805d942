"""
Read a JSON request body: one reading for everything that dmap decides by it.

A body has *structural* objects: the outermost one, messages, content parts and tools.  Servers act on the
members of these, so dmap reads them as every server does, or refuses them: each name occurs once, and a name
that means something is spelled in one way only.  What stands anywhere else, such as in the JSON schema of a
tool or in the arguments of a call, is not looked at.

`limits.py` bounds a body before it is read, `values.py` decodes it, `guards.py` says what needs a permit, and
`fitting.py` changes it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from dmap.errors import BadRequest
from dmap.wire.guards import Need, needs_of
from dmap.wire.limits import check_limits
from dmap.wire.parameters import plain, plain_words
from dmap.wire.values import LONGEST_NAME, SHORT_BYTES, opened

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Call(NamedTuple):
    """
    What a *body* asks for: *model* is None when it names none.

    *read* are its outermost members, and *fields* those that its server shall have.  Values are decoded, but
    for long ones, which `values.opened` decodes.  *needs* are what it must be permitted.
    """

    model: str | None
    stream: bool
    body: bytes
    read: Mapping[str, Any]
    fields: Mapping[str, Any]
    needs: Sequence[Need] = ()

    def written(self) -> bytes:
        """Return the body for its server: what was not changed stands as its client wrote it."""
        if self.fields is self.read:
            return self.body
        sent, read = _members(self.body), self.read
        is_kept = {name for name, value in self.fields.items() if name in read and read[name] is value}
        return msgspec.json.encode(
            {name: sent[name] if name in is_kept else value for name, value in self.fields.items()}
        )


def peek(body: bytes) -> Call:
    """
    Read *body*, refusing what a server might read otherwise.

    Raises `BadRequest` naming the field.
    """
    try:
        if len(body) >= SHORT_BYTES:
            check_limits(body)
        fields = opened(msgspec.Raw(body))
        if not isinstance(fields, dict):
            raise BadRequest("the body must be a JSON object")
        needs = needs_of(fields)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest(f"the body is not JSON: {exc}") from exc
    model, stream = fields.get("model"), fields.get("stream")
    if not isinstance(stream, bool | None):
        raise BadRequest("'stream' must be true or false", param="stream")
    return Call(check_model(model), bool(stream), body, fields, fields, needs)


def check_model(name: Any) -> str | None:
    """Return the *name* of a model as a client gave it, if a model may have it; None for an empty one."""
    if name is None or (isinstance(name, str) and len(name) <= LONGEST_NAME):
        return name if name and not name.isspace() else None
    raise BadRequest(f"'model' must be a string of up to {LONGEST_NAME} characters", param="model")


def check_permits(needs: Collection[Need], permitted: Collection[str], strip: frozenset[str]) -> None:
    """Refuse what is among the *needs* and not *permitted*, unless *strip* takes its member out."""
    for need in needs:
        if need.permit not in permitted and plain(need.member) not in plain_words(strip):
            what = f"{need.field!r} is not permitted for this model (permit: {need.permit})"
            raise BadRequest(f"{what}: it {need.reason}", param=need.field)
