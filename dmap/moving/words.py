"""Commands as llama-swap splits them, and words as dmap's configuration has them.  Neither is a shell."""

import re
import shlex
from collections.abc import Iterator, Sequence

from dmap.moving.macros import MODEL, PID, PORT

LBRACE, RBRACE = "\uf8f5", "\uf8f6"
PLACES = {PORT: "{port}", MODEL: "{model}", LBRACE: "{lbrace}", RBRACE: "{rbrace}"}
"""What dmap writes for a mark."""

_MACRO = re.compile("\uf8f7([a-z0-9_]+)\uf8f8")
_LITERAL = re.compile(r"(?<!\{)\{(?=[a-z][a-z0-9_]*\}(?!\}))")
_MARKS = "\uf8f0-\uf8f8"
_VARIABLE = re.compile("\\$(?=[{\uf8f2-\uf8f7])")
"""A $ before a brace is a variable of dmap's own environment, wherever it stands."""
_SAFE = re.compile(r"[\w@%+=:,./{}~^$*?!;|&<>()\[\]`\uf8f0-\uf8f8-]+")
_SHELL = {"&&", "||", "|", ";", "&", ">", ">>", "<", "2>", "2>&1", "&>"}
_SPACE = " \t\n"


def uncommented(text: str) -> str:
    """Return *text* without the lines that begin with #."""
    return "\n".join(line for line in text.split("\n") if not line.strip().startswith("#"))


def joined(text: str) -> str:
    r"""Return *text* without comments and without the \ at the end of lines, behind which a word ends."""
    lines = uncommented(text).split("\n")
    return "\n".join(f"{line.strip()[:-1]} " if line.strip().endswith("\\") else line for line in lines)


def split(text: str) -> list[str]:
    r"""
    Split *text*, which is `joined`, as llama-swap does.

    That is POSIX (2.2, Quoting), but that a quote that nothing closes ends with the text.
    """
    return list(_words(iter(text)))


def _words(characters: Iterator[str]) -> Iterator[str]:
    word, begun, quote = "", False, ""
    for each in characters:
        if each == "\\" and quote != "'":
            word, begun = word + _escaped(next(characters, ""), quote), True
        elif each == quote:
            quote = ""
        elif quote:
            word += each
        elif each in "\"'":
            quote, begun = each, True
        elif each not in _SPACE:
            word, begun = word + each, True
        elif begun:
            yield word
            word, begun = "", False
    if begun:
        yield word


def _escaped(each: str, quote: str) -> str:
    r"""Return what a \ and *each* behind it mean."""
    if each in ("", "\n"):
        return ""
    return each if not quote or each in '$`"\\' else f"\\{each}"


def braced(text: str) -> str:
    """Return *text* with marks for braces that dmap would take for those of a place, or that spoil one."""
    text = _LITERAL.sub(LBRACE, text)
    text = re.sub(rf"\{{+(?=[{_MARKS}])", lambda run: LBRACE * len(run[0]), text)
    return re.sub(rf"(?<=[{_MARKS}])\}}+", lambda run: RBRACE * len(run[0]), text)


def is_writable(text: str) -> bool:
    """Tell whether nothing in *text*, which is `braced`, would be read as a variable of the environment."""
    return _VARIABLE.search(text) is None


def placed(text: str) -> str:
    """Return *text*, which is `braced`, with dmap's places for its marks."""
    for mark, place in PLACES.items():
        text = text.replace(mark, place)
    return _MACRO.sub(r"{\1}", text)


def macros_of(text: str) -> list[str]:
    """Return the names of dmap's macros whose marks are in *text*."""
    return _MACRO.findall(text)


def macro(name: str) -> str:
    """Return the mark of dmap's macro *name*."""
    return f"\uf8f7{name}\uf8f8"


def quoted(words: Sequence[str]) -> list[str]:
    """Return *words* so that dmap splits them into the same again."""
    return [_quoted(braced(word)) for word in words]


def _quoted(word: str) -> str:
    if _SAFE.fullmatch(word) and word not in _SHELL and is_writable(word):
        return word
    return "'" + _VARIABLE.sub("$''", word.replace("'", "'\"'\"'")) + "'"


def as_script(words: Sequence[str]) -> list[str]:
    """Return the words of a shell that runs *words* with the process id, where they have its mark."""
    told = '"$MAINPID"'
    parts = ([shlex.quote(part) if part or not word else "" for part in word.split(PID)] for word in words)
    return ["sh", "-c", " ".join(map(told.join, parts))]
