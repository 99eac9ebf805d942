"""
Make a request fit the model and the server it goes to: take out, force, translate, fill in.

The order is this, and each step sees what the one before left:

1. `strip` takes fields of the client out, in whatever letters and spelling they are.
2. `force` replaces what the client said under any word, or adds what it did not say.
3. Words that the server does not read become words that it reads: `maxTokens` becomes `max_tokens`.
4. `defaults` fill in what is absent or null, also where something was stripped.

Only the outermost members count.  A request that none of this changes stays the same object.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dmap.errors import BadRequest
from dmap.wire.body import Call
from dmap.wire.parameters import WORDS_OF, Wording, plain, plain_words, understood

_Fields = Mapping[str, Any]
_NOTHING: _Fields = MappingProxyType({})


def fit(
    call: Call,
    words: Wording,
    *,
    model: str,
    defaults: _Fields = _NOTHING,
    force: _Fields = _NOTHING,
    strip: frozenset[str] = frozenset(),
) -> Call:
    """
    Return *call* for the model that its backend calls *model*; the same object if it already is.

    *defaults* and *force* hold values by parameter; *strip* names parameters or any other fields.  Raises
    `BadRequest` for a value that dmap's own words do not take, and for two words with two values.
    """
    fields = call.fields
    if strip:
        fields = _stripped(fields, plain_words(strip))
    if force and words.sent:
        fields = _forced(fields, force, words)
    if not words.foreign.keys().isdisjoint(fields):
        fields = _translated(fields, words)
    if defaults:
        fields = _filled(fields, defaults, words)
    if call.model != model:
        fields = {**fields, "model": model}
    if fields is call.fields:
        return call
    return call._replace(model=model, stream=fields.get("stream") is True, fields=fields)


def _stripped(fields: _Fields, gone: frozenset[str]) -> _Fields:
    kept = {word: value for word, value in fields.items() if plain(word) not in gone}
    return kept if len(kept) < len(fields) else fields


def _forced(fields: _Fields, force: _Fields, words: Wording) -> _Fields:
    """Have each parameter of *force* stand once, as the server reads it, or not at all if it does not."""
    kept = {word.partition(".")[0] for name in force for word in words.sent.get(name, ())}
    gone = {word for name in force for word in WORDS_OF[name]} - kept
    changed = {word: value for word, value in fields.items() if word not in gone}
    for name, value in force.items():
        _put(changed, words.sent.get(name, ()), value, words)
    return changed


def _translated(fields: _Fields, words: Wording) -> _Fields:
    """Give each foreign word with a value its place under the server's own word."""
    changed = dict(fields)
    for word in fields:
        name = words.foreign.get(word)
        if name is None or fields[word] is None:
            continue
        value = understood(word, changed.pop(word))
        others = [other for other in words.read[name] if _given(changed, other) is not None]
        for other in others:
            if understood(other, _given(changed, other)) != value:
                raise BadRequest(f"{word!r} and {other!r} are given and differ: give one", param=word)
        if not others:
            _put(changed, words.sent[name], value, words)
    return changed if changed.keys() != fields.keys() else fields


def _filled(fields: _Fields, defaults: _Fields, words: Wording) -> _Fields:
    """Put in the defaults of which the client gave no value, in place of its nulls."""
    changed: dict[str, Any] | None = None
    for name, value in defaults.items():
        read = words.read.get(name)
        if read is None or any(_given(fields, word) is not None for word in read):
            continue
        if changed is None:
            changed = dict(fields)
        for word in WORDS_OF[name]:
            if word in changed and changed[word] is None and word not in words.sent[name]:
                del changed[word]
        _put(changed, words.sent[name], value, words)
    return fields if changed is None else changed


def _put(fields: dict[str, Any], sent: tuple[str, ...], value: Any, words: Wording) -> None:
    """Set *value* under each word that is *sent*, and leave the other members of its field."""
    for word in sent:
        field, dot, member = word.partition(".")
        if dot:
            holder = fields.get(field)
            fields[field] = {**(holder if isinstance(holder, dict) else {}), member: value}
        elif word in words.values and isinstance(value, str):
            fields[word] = words.values[word].get(value, value)
        else:
            fields[word] = value


def _given(fields: _Fields, word: str) -> Any:
    """Return the value of *word*; None if it is absent or null."""
    field, dot, member = word.partition(".")
    value = fields.get(field)
    return value.get(member) if dot and isinstance(value, dict) else value
