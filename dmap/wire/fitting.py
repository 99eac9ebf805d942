"""
Make a request fit the model and the server it goes to: take out, force, translate, fill in.

The order is this, and each step sees what the one before left:

1. `strip` takes fields of the client out, in whatever letters and spelling they are.
2. `force` replaces what the client said under any word, or adds what it did not say.
3. Words that the server does not read become words that it reads: `maxTokens` becomes `max_tokens`.
4. `defaults` fill in what is absent or null, also where something was stripped.

Only the outermost members count.  A request that none of this changes stays the same object.
"""

from collections.abc import Collection, Mapping
from functools import lru_cache
from operator import is_
from types import MappingProxyType
from typing import Any

from dmap.errors import BadRequest
from dmap.wire.body import Call
from dmap.wire.parameters import WORDS_OF, plain, plain_words, understood
from dmap.wire.routes import Wording

_Fields = Mapping[str, Any]

_plain = lru_cache(maxsize=1024)(plain)
"""For the outermost names of a body, which are not long (`LONGEST_NAME`)."""


def fit(
    call: Call,
    words: Wording,
    *,
    model: str,
    defaults: _Fields = MappingProxyType({}),
    force: _Fields = MappingProxyType({}),
    strip: frozenset[str] = frozenset(),
) -> Call:
    """
    Return *call* for the model that its backend calls *model*; the same object if it already is.

    *defaults* and *force* hold values by parameter; *strip* names parameters or any other fields.  Raises
    `BadRequest` for a value that dmap's own words do not take, and for two words with two values.
    """
    fields = dict(call.fields)
    if strip:
        _strip(fields, plain_words(strip))
    if force and words.sent:
        _force(fields, force, words)
    if not words.foreign.keys().isdisjoint(fields):
        _translate(fields, words)
    if defaults:
        _fill(fields, defaults, words)
    if call.model != model:
        fields["model"] = model
    if fields.keys() == call.fields.keys() and all(map(is_, fields.values(), call.fields.values())):
        return call
    return call._replace(model=model, stream=fields.get("stream") is True, fields=fields)


def changes(call: Call, force: Collection[str], words: Wording) -> dict[str, list[str]]:
    """
    Tell which members of a fitted *call* dmap `filled` in, `forced` and `stripped`, as far as there are any.

    Its model is none of these, nor is what only got another word.
    """
    read, fields = call.read, call.fields
    if fields is read:
        return {}
    own = {_field(word) for name in force for word in words.sent.get(name, ())}
    foreign = [word for word in read if word in words.foreign and word not in fields]
    said = {_field(word) for word in foreign for word in words.sent[words.foreign[word]]}
    new = [word for word, value in fields.items() if value is not read.get(word) and word != "model"]
    told = {
        "filled": [word for word in new if word not in own and word not in said],
        "forced": [word for word in new if word in own],
        "stripped": [word for word in read if word not in fields and word not in foreign],
    }
    return {what: members for what, members in told.items() if members}


def _field(word: str) -> str:
    return word.partition(".")[0]


def _strip(fields: dict[str, Any], gone: frozenset[str], kept: Collection[str] = ()) -> None:
    for word in [word for word in fields if _plain(word) in gone and word not in kept]:
        del fields[word]


def _force(fields: dict[str, Any], force: _Fields, words: Wording) -> None:
    """Have each parameter of *force* stand once, as the server reads it, or not at all if it does not."""
    kept = {_field(word) for name in force for word in words.sent.get(name, ())}
    _strip(fields, plain_words(frozenset(force)), kept)
    for name, value in force.items():
        _put(fields, words.sent.get(name, ()), value, words)


def _translate(fields: dict[str, Any], words: Wording) -> None:
    """Give each foreign word with a value its place under the server's own word."""
    for word in [word for word in fields if word in words.foreign and fields[word] is not None]:
        name, value = words.foreign[word], understood(word, fields.pop(word))
        others = [other for other in words.read[name] if _given(fields, other) is not None]
        for other in others:
            if understood(other, _given(fields, other)) != value:
                raise BadRequest(f"{word!r} and {other!r} are given and differ: give one", param=word)
        if not others:
            _put(fields, words.sent[name], value, words)


def _fill(fields: dict[str, Any], defaults: _Fields, words: Wording) -> None:
    """Put in the defaults of which the client gave no value, in place of its nulls."""
    nulls = [word for word, value in fields.items() if value is None]
    for name, value in defaults.items():
        given = [_given(fields, word) for word in words.read.get(name, ())]
        if given.count(None) < len(given) or not given:
            continue
        for word in nulls:
            if word in WORDS_OF[name] and word not in words.sent[name]:
                del fields[word]
        _put(fields, words.sent[name], value, words)


def _put(fields: dict[str, Any], sent: tuple[str, ...], value: Any, words: Wording) -> None:
    """Set *value* under each word that is *sent*, and leave the other members of its field."""
    for word in sent:
        field, dot, member = word.partition(".")
        said = words.values.get(word, {}).get(value, value) if isinstance(value, str) else value
        if dot:
            holder = fields.get(field)
            said = {**(holder if isinstance(holder, dict) else {}), member: said}
        fields[field] = said


def _given(fields: _Fields, word: str) -> Any:
    """Return the value of *word*; None if it is absent or null."""
    if "." not in word:
        return fields.get(word)
    field, _, member = word.partition(".")
    value = fields.get(field)
    return value.get(member) if isinstance(value, dict) else value
