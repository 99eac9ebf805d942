"""
Commands in the configuration: split as a shell splits them, and never run by one.

A text may have places, `{name}`.  Those of macros are filled when the file is read, before a command is
split, so a macro may hold several words.  The others are filled in the words when the command is run, so no
value ever becomes a second word, or an option of its own.
"""

import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from dmap.sections.near import meant

BRACES = {"lbrace": "{", "rbrace": "}"}
"""Braces beside a place, or around a word that is none, as in JSON."""
PLACES = ("port", "model", "context_length", "parallel", *BRACES)
"""What is filled in when a command is run."""

PORT = "port"
"""Instead of the path that is asked whether a server is ready: it is once it takes connections."""

LONGEST = 2**15
"""Of a command, in characters; to split so many takes some 30 ms."""

_PLACE = re.compile(r"(?<!\{)\{([a-z][a-z0-9_]*)\}(?!\})")
_COMMENT = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_SHELL = {"&&", "||", "|", ";", "&", ">", ">>", "<", "2>", "2>&1", "&>"}


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return *text* with its places filled, those that *values* has."""
    return _PLACE.sub(lambda place: values.get(place[1], place[0]), text)


def places(text: str) -> list[str]:
    """Return the names of the places in *text*; what stands in double braces is none."""
    return _PLACE.findall(text)


def _known(text: str) -> str:
    unknown = [name for name in places(text) if name not in PLACES]
    if unknown:
        near = meant(unknown[0], PLACES)
        known = ", ".join(f"{{{name}}}" for name in PLACES)
        raise ValueError(
            f"there is no {{{unknown[0]}}} here: known are {known}, and what `macros` has above{near}"
        )
    return text


def _passable(text: str) -> str:
    """Refuse what no program can be given."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a character in it has no place in UTF-8") from None
    if "\0" in text:
        raise ValueError("no program can be given a NUL")
    return text


def _words(value: Any) -> Any:
    """Split a command; a line that begins with # is a comment, and a \\ joins a line to the next."""
    if not isinstance(value, str):
        raise ValueError("not a command; write it as in a shell, in one text")
    if len(value) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    try:
        words = tuple(shlex.split(_COMMENT.sub("", value).replace("\\\n", "")))
    except ValueError as exc:
        raise ValueError(f"cannot be split: {str(exc).lower()}") from None
    if not words or not words[0]:
        raise ValueError("names no program")
    if shells := _SHELL.intersection(words, value.split()):  # one in quotes is an argument
        raise ValueError(f"{min(shells)!r} is for a shell, and there is none; write: sh -c '...'")
    return words


def _told(value: Any) -> Any:
    """Take a number for its text, as a shell does."""
    if isinstance(value, bool):
        raise ValueError("write it as a text, in quotes")
    return str(value) if isinstance(value, int | float) else value


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,255}", name):
        raise ValueError("not the name of a variable of the environment")
    return name


def _path(path: str) -> str:
    if path != PORT and not re.fullmatch(r"/[\x21-\x7e]*", path):
        raise ValueError("not a path of a URL; write it like /health, or port")
    return path


_Passable = Annotated[str, AfterValidator(_passable), Field(max_length=LONGEST)]
Text = Annotated[_Passable, AfterValidator(_known)]
Words = Annotated[tuple[Text, ...], BeforeValidator(_words)]
Variable = Annotated[str, AfterValidator(_variable)]
Value = Annotated[_Passable, BeforeValidator(_told)]
Told = Annotated[Text, BeforeValidator(_told)]
"""The value of a variable; a `Told` may have places."""
UrlPath = Annotated[str, AfterValidator(_path), Field(max_length=1024)]
