"""
Which requests may have the answer of an earlier one that asked the same, and what makes two the same.  Pure.

What is kept of an answer, and as which bytes, is the business of `kept`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dmap.wire.acts import acts
from dmap.wire.body import Call
from dmap.wire.routes import CHAT, COMPLETION, EMBEDDING, MESSAGES, RESPONSE, InferenceRoute
from dmap.wire.values import type_of

VERSION = 1
"""Of the key and of what is kept under it: another one finds nothing of this."""

_TEXTS = (CHAT, COMPLETION, RESPONSE, MESSAGES)


def may_repeat(route: InferenceRoute, call: Call) -> bool:
    """
    Tell whether *call*, a fitted request for *route*, may have an answer that was kept.

    An embedding may.  A text may where the client itself and the server's own words both say `temperature` 0
    and a `seed`.  Nothing may that acts on its server's side, takes a permit, or goes on from what its server
    keeps.
    """
    if call.needs or acts(call.fields):
        return False
    if route.contents is EMBEDDING:
        return True
    is_text = route.contents in _TEXTS and _stands_alone(route, call.fields)
    return is_text and _is_settled(call.read) and _is_settled(call.fields)


def _is_settled(fields: Mapping[str, Any]) -> bool:
    """Tell whether *fields* leave nothing to chance, as far as a client can say so; a seed of -1 does."""
    temperature, seed = fields.get("temperature"), fields.get("seed")
    return (
        type(temperature) in (int, float)
        and temperature == 0
        and type(seed) is int
        and seed >= 0
        and fields.get("n") in (None, 1)
    )


def _stands_alone(route: InferenceRoute, fields: Mapping[str, Any]) -> bool:
    """
    Tell whether the answer needs nothing that the server keeps, and leaves nothing there.

    Of `/v1/responses` a server keeps each answer, to go on from, unless `store` is false (OpenAI's
    reference); a `prompt` that is an object is one that it keeps.
    """
    is_stored = route.contents is RESPONSE and fields.get("store") is not False
    is_kept = fields.get("previous_response_id") is not None or type_of(fields.get("prompt")) is dict
    return not (is_stored or is_kept)


def key_of(path: str, made_with: str, who: Sequence[str], told: Sequence[str], call: Call) -> bytes:
    """
    Return what two requests have in common that may have one answer: 32 bytes, a SHA-256.

    *made_with* stands for the model, its settings and its server, *who* for the client; *told* are the
    headers that its server reads.  The order of the outermost members does not count.  Further inside it
    does, for there it may change the answer: a JSON schema is answered in its order, and templates print
    tools as they stand.  The name of the model does not count, for *made_with* says which it is.
    """
    fields = call.read
    body = {name: fields[name] for name in sorted(fields) if name != "model"}
    beside = [
        VERSION,
        path,
        made_with,
        list(map(ascii, who)),
        list(map(ascii, told)),
    ]  # any bytes may be there
    return hashlib.sha256(msgspec.json.encode([*beside, body])).digest()
