"""The text of a configuration: YAML that an owner likes to read, with comments in their places."""

import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 100
_INDENT = "  "
_PLAIN = re.compile(r"[A-Za-z/][\w./@+=%~:{}-]*(?<!:)(?: [\w./@+=%~{}-][\w./@+=%~:{}-]*(?<!:))*", re.ASCII)
_NUMBERS = re.compile(r"[0-9]+-[0-9]+|[0-9]+(?:\.[0-9]+){3}")
"""A range of ports, or an address: no number in YAML."""
_FLOW = re.compile(r"[A-Za-z/][\w./@+%~-]*", re.ASCII)
_SECRET = re.compile("key|secret|token|password", re.IGNORECASE)
_SPECIAL = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
_UNSEEN = re.compile("[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff0-\uffff]")
"""What YAML takes for the end of a line, or nobody sees."""


@dataclass(frozen=True, slots=True)
class Entry:
    """
    A key with its value: a scalar, a list or mapping for one line, a `Block`, or a list of Blocks.

    *why* stands behind it, *notes* stand above it.
    """

    key: str
    value: Any
    why: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """Entries below each other; a text among them is a comment."""

    parts: Sequence[Entry | str]


def document(head: Sequence[str], sections: Sequence["Entry | Block"]) -> str:
    """Return a whole file: comments at its *head*, then its *sections* with a line between them."""
    lines = [line for text in head for line in _comment(text, "")]
    for section in sections:
        lines += ["", *(_block(section, "") if isinstance(section, Block) else _part(section, ""))]
    return "\n".join([*lines, ""])


def shown(value: Any, key: str = "") -> str:
    """Return the *value* of *key* in one short line for a comment, but nothing that looks like a secret."""
    value = _masked(value, key)
    return textwrap.shorten(scalar(value) if isinstance(value, str) else _flow(value), 80, placeholder=" ...")


def _masked(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _masked(each, str(name)) for name, each in value.items()}
    return "..." if _SECRET.search(key) else value


def _part(part: Entry | str, indent: str) -> Iterator[str]:
    if isinstance(part, str):
        yield from _comment(part, indent)
        return
    for note in part.notes:
        yield from _comment(note, indent)
    key, why = f"{indent}{scalar(part.key)}:", f"   # {_clean(part.why)}" if part.why else ""
    match part.value:
        case Block():
            yield key + why
            yield from _block(part.value, indent + _INDENT)
        case [Block(), *_]:
            yield key + why
            for each in part.value:
                first, *others = _block(each, indent + 2 * _INDENT)
                yield f"{indent}{_INDENT}- {first.lstrip()}"
                yield from others
        case str() if "\n" in part.value and _is_literal(part.value):
            yield f"{key} |{why}"
            yield from (f"{indent}{_INDENT}{line}" for line in part.value.split("\n"))
        case str():
            yield f"{key} {scalar(part.value)}{why}"
        case _:
            yield f"{key} {_flow(part.value)}{why}"


def _block(block: Block, indent: str) -> Iterator[str]:
    for part in block.parts:
        yield from _part(part, indent)


def _comment(text: str, indent: str) -> list[str]:
    begin = f"{indent}# "
    return textwrap.wrap(_clean(text), WIDTH, initial_indent=begin, subsequent_indent=begin) or [f"{indent}#"]


def _clean(text: str) -> str:
    """Return *text* with nothing in it that ends a line."""
    return "".join(each if each.isprintable() else " " for each in text)


def _is_literal(text: str) -> bool:
    """Tell whether *text* reads the same as a block of lines."""
    lines = text.split("\n")
    return all(line and line.strip() == line and line.isprintable() for line in lines)


def scalar(text: str) -> str:
    """Write *text* so that YAML, 1.1 or 1.2, reads a text."""
    if _NUMBERS.fullmatch(text) or (_PLAIN.fullmatch(text) and text.lower() not in _SPECIAL):
        return text
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(text, ensure_ascii=False))


def _flow(value: Any) -> str:
    match value:
        case dict():
            return f"{{{', '.join(f'{_flow(str(key))}: {_flow(each)}' for key, each in value.items())}}}"
        case list() | tuple():
            return f"[{', '.join(map(_flow, value))}]"
        case str() if _FLOW.fullmatch(value) and value.lower() not in _SPECIAL:
            return value
        case str():
            return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
        case float():
            return re.sub(r"^(-?[0-9]+)e", r"\1.0e", repr(value))  # without a point it is a text for YAML 1.1
    return json.dumps(value)
