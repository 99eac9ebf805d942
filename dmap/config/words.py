"""What is wrong with single values, in words for the owner of the file instead of pydantic's."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, get_args

from pydantic_core import ErrorDetails

from dmap.kinds import KINDS
from dmap.sections import Section
from dmap.sections.models import FURTHER, Spelled
from dmap.sections.near import meant, nearest

_MUST = "must be "
_WHOLE, _NUMBER, _TRUTH = "must be a whole number", "must be a number", "must be true or false"
_MAPPING, _LIST, _TEXT = "must be a mapping (key: value)", "must be a list ([A, B])", "must be a text"
_WORDS = {
    "missing": "missing",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "must be a number with an end",
    "bool_type": _TRUTH,
    "bool_parsing": _TRUTH,
    "string_type": _TEXT,
    "path_type": _TEXT,
    "string_unicode": "a character in it has no place in UTF-8",
    "string_too_long": "must have {max_length} characters at most",
    "string_too_short": "must not be empty",
    "too_long": "must have {max_length} characters at most",
    "tuple_type": _LIST,
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
    "union_tag_invalid": f"no such kind; there are: {', '.join(KINDS)}",
    "union_tag_not_found": f"missing; there are: {', '.join(KINDS)}",
    "value_error": "{error}",
}
"""By pydantic's types of errors, what they mean; in braces is what pydantic tells of them."""

_OTHERS = {
    "api_base": "url", "base_url": "url", "endpoint": "url", "address": "url",
    "type": "kind", "provider": "kind", "command": "cmd", "alias": "aliases",
    "vram": "memory", "dir": "path", "directory": "path", "folder": "path", "model_dir": "path",
    "ctx": "context_length", "ctx_size": "context_length", "n_ctx": "context_length",
    "max_model_len": "context_length",
    "ngl": "gpu_layers", "n_gpu_layers": "gpu_layers", "token": "api_key", "concurrency": "parallel",
    "max_loaded": "max_models", "whitelist": "allow", "allowlist": "allow", "hash": "sha256", "key": "sha256",
    "certificate": "cert", "cert_file": "cert", "sample": "share", "sampling": "share", "ratio": "share",
    "timeout": "load_s", "request_timeout": "first_byte_s", "ttl": "ttl_s", "keep_alive": "ttl_s",
}  # fmt: skip
"""Keys as other programs call them, by what they are called here."""
_S_PER = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def steps_of(values: Any, error: ErrorDetails) -> list[int | str]:
    """Return where in *values* the *error* is; pydantic also has steps for which one of several it tried."""
    steps = []
    for step in error["loc"]:
        is_list = isinstance(values, list) and isinstance(step, int) and step < len(values)
        if is_list or (isinstance(values, dict) and step in values):
            values = values[step]
            steps.append(step)
    return [*steps, error["loc"][-1]] if error["type"] == "missing" else steps


def in_our_words(whole: type[Section], values: Any, errors: Iterable[ErrorDetails]) -> list[str]:
    """
    Return what *errors* mean that *values* have as a section of the type *whole*.

    Each is a line, `path: what is wrong`; where a value could be one of several, there is one line for all.
    """
    said: dict[str, str] = {}
    for error in errors:
        steps = steps_of(values, error)
        if error["type"].startswith("union_tag"):
            steps.append("kind")
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).lstrip(".")
        words = _no_such_key(whole, error) if error["type"] == "extra_forbidden" else meaning_of(error)
        words += _hint(str(steps[-1]) if steps else "", error)
        before = f"{said[path]} or " if path in said and words.startswith(_MUST) else ""
        if before or path not in said:
            said[path] = before + words.removeprefix(_MUST if before else "")
    return [f"{path or 'the file'}: {words}" for path, words in said.items()]


def meaning_of(error: ErrorDetails) -> str:
    """Return what one of pydantic's errors means, without its place."""
    return _WORDS.get(error["type"], "cannot be taken").format_map(error.get("ctx", {}))


def _hint(key: str, error: ErrorDetails) -> str:
    """Guess what was meant, without the value itself: it may be a secret."""
    value = error["input"]
    match _WORDS.get(error["type"]):
        case _ if error["type"] == "literal_error":
            return meant(value, re.findall(r"'([^']*)'", error["ctx"]["expected"]))
        case _ if error["type"] == "union_tag_invalid":
            return meant(error["ctx"]["tag"], KINDS)
        case _ if error["type"] == "union_tag_not_found":
            other = next((key for key in value if _ours(key) == "kind"), None)
            return f"; {other!r} is no such key" if other is not None else ""
        case "must be a text":
            return "; put it in quotes" if value is not None else ", and there is none"
        case "must be a number" | "must be a whole number" if isinstance(value, str):
            return _in_units(key, value)
        case words:
            return _SHAPES.get((words or "", type(value)), "")


_SHAPES = {
    (_MAPPING, list): ", not a list; write NAME: instead of - NAME",
    (_MAPPING, type(None)): ", and nothing stands under it",
    (_LIST, dict): ", not a mapping; write - in front of each item",
}
"""What to do about a value of one shape where another one belongs."""


def _in_units(key: str, value: str) -> str:
    """Guess the number of a *value* with a unit: of seconds, or of tokens as in `8k`."""
    if (tokens := re.fullmatch(r"([0-9]{1,5}) ?[kK]", value)) and key == "context_length":
        return f"; did you mean {int(tokens[1]) * 1024}?"
    found = re.fullmatch(r"([0-9]{1,6}) ?([a-z]{1,3})", value)
    if found is None or not key.endswith("_s") or found[2] not in _S_PER:
        return ""
    return f" of seconds without a unit; did you mean {int(found[1]) * _S_PER[found[2]]:g}?"


def _no_such_key(whole: type[Section], error: ErrorDetails) -> str:
    *around, key = error["loc"]
    sections = _sections_at(whole, around)
    if key in FURTHER and any(issubclass(each, Spelled) for each in sections):
        return "no such key, or a second spelling of one"
    here, known = [name for each in sections for name in each.model_fields], _everywhere(whole)
    ours = _ours(key)
    if near := ours if ours in here else nearest(ours, here) or nearest(key, here):
        return f"no such key; did you mean {near}?"
    if ours in known:
        return f"no such key here; there is {known[ours]}"
    return "no such key"


def _ours(key: Any) -> str:
    """Return what a *key* of another program is called here, or one that lacks the space behind its colon."""
    word = str(key).partition(":")[0].casefold().replace("-", "_")
    return _OTHERS.get(word, word)


def _sections_at(whole: type[Section], around: Sequence[int | str]) -> Sequence[type[Section]]:
    """Return what a mapping can be that stands at *around*, with pydantic's steps."""
    sections: Sequence[type[Section]] = [whole]
    for step in around:
        if step in KINDS:
            sections = [KINDS[str(step)].section]
        elif step == "nodes" and sections == [whole]:  # their type says no more than what all backends have
            sections = [kind.section for kind in KINDS.values() if kind.forwards]
        elif found := [each.model_fields[str(step)] for each in sections if step in each.model_fields]:
            sections = [section for field in found for section in _sections_in(field.annotation)]
    return sections


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)


@cache
def _everywhere(whole: type[Section]) -> Mapping[str, str]:
    """Return all keys below *whole*, each with a path of where it belongs."""
    found: dict[str, str] = {}
    for name, field in whole.model_fields.items():
        for section in _sections_in(field.annotation):
            inner = _everywhere(section)
            dots = ".NAME." if str(field.annotation).startswith("dict") else "."
            found |= {key: f"{name}{dots}{path}" for key, path in inner.items() if key not in found}
        found[name] = name
    return found
