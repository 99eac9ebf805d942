"""
Commands of llama-swap as dmap has them, in a form that stays readable: with macros and lines where it can.

Whatever the form, dmap makes the same words of it as llama-swap does: that is compared here, and where no
readable form does, the words are written in quotes.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from dmap.moving import words as forms
from dmap.moving.macros import MODEL, PID, PORT, Expansion, Macro
from dmap.moving.source import go_text, written
from dmap.sections import ModelSection
from dmap.sections.command import BRACES, LONGEST, PLACES, fill

WIDTH = 96
"""A longer command gets a line for each of its options."""

_USE = re.compile(r"\$\{([^{}]*)\}")
_OPTION = re.compile(r"--?[A-Za-z]")
_VALUES = {"port": PORT, "model": MODEL, **BRACES}
_TERM = (["kill", PID], ["kill", "-TERM", PID], ["kill", "-SIGTERM", PID], ["kill", "-15", PID])


class Commands:
    """
    Writes commands.

    Of the *shared* macros it keeps those that can stand in dmap's file as they are; `macros` has those that
    some command was written with, by dmap's names.
    """

    def __init__(self, shared: Sequence[Macro], expansion: Expansion) -> None:
        self._shared = shared
        self._expansion = expansion
        self._names: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        self._filled: dict[str, str] = {}
        self._used: set[str] = set()
        for each in shared:
            ours = re.sub(r"[^a-z0-9]+", "_", each.name.lower()).strip("_")
            if re.match("[a-z]", ours) and ours not in (*PLACES, *self._texts):
                text = forms.braced(" ".join(self._lines(go_text(each.value), (), self._names)))
                length = len(text) + sum(len(self._filled[name]) for name in forms.macros_of(text))
                if length <= LONGEST and forms.is_writable(text) and "${" not in text:
                    self._names[each.name], self._texts[ours] = ours, text
                    self._filled[ours] = fill(forms.placed(text), self._filled)

    @property
    def macros(self) -> Mapping[str, str]:
        """The macros that the commands so far were written with, in order."""
        return {name: written(forms.placed(text)) for name, text in self._texts.items() if name in self._used}

    @property
    def lost(self) -> list[str]:
        """Return the names of macros, as they were, that no command was written with."""
        return [each.name for each in self._shared if self._names.get(each.name) not in self._used]

    def words(self, text: str, macros: Sequence[Macro]) -> list[str]:
        """Return what llama-swap makes of the command *text*, with marks for what is known later."""
        return forms.split(forms.joined(self._expanded(forms.uncommented(text), macros)))

    def fit(self, words: Sequence[str]) -> None:
        """Raise ValueError if dmap cannot run *words*."""
        ModelSection.model_validate({"cmd": _laid_out(forms.quoted(words))})

    def start(self, text: str, macros: Sequence[Macro]) -> str:
        """Return the command *text* for `cmd`."""
        return written(self._form(text, macros, self.words(text, macros)))

    def stop(self, text: str, macros: Sequence[Macro]) -> str | None:
        """Return *text* for `stop`, marks of variables in it; None if it only does what dmap does anyhow."""
        text = text.replace("${PID}", PID)
        words = self.words(text, macros)
        if words in _TERM:
            return None
        if any(PID in word for word in words):
            return _laid_out(forms.quoted(forms.as_script(words)))
        return self._form(text, macros, words)

    def _form(self, text: str, macros: Sequence[Macro], words: Sequence[str]) -> str:
        shared = {each.name: each for each in self._shared}
        same = {each.name for each in macros if shared.get(each.name) is each}
        kept = {name: ours for name, ours in self._names.items() if name in same}
        for names in (kept, {}):
            form = forms.braced("\n".join(_layout(list(self._lines(text, macros, names)))))
            if forms.is_writable(form) and self._read(forms.placed(form)) == words:
                self._use(forms.macros_of(form))
                return forms.placed(form)
        return _laid_out(forms.quoted(words))

    def _lines(self, text: str, macros: Sequence[Macro], kept: Mapping[str, str]) -> Iterator[str]:
        """Yield the lines of *text*, and its comments, with *kept* macros used and the others put in."""
        for line in text.split("\n"):
            if line.strip().startswith("#"):
                yield "# " + re.sub(r"[${}]", "", line.strip().lstrip("# "))
                continue
            line = _USE.sub(lambda use: forms.macro(kept[use[1]]) if use[1] in kept else use[0], line)
            whole = forms.joined(self._expanded(line, macros))
            yield from filter(None, map(str.strip, whole.split("\n")))

    def _expanded(self, text: str, macros: Sequence[Macro]) -> str:
        return go_text(self._expansion.of(text, macros)).replace("${PORT}", PORT)

    def _read(self, text: str) -> list[str] | None:
        """Return the words that dmap makes of *text*; None if it refuses it."""
        try:
            words = ModelSection.model_validate({"cmd": fill(text, self._filled)}).cmd
        except ValueError:
            return None
        return [fill(word, _VALUES) for word in words or ()]

    def _use(self, names: Collection[str]) -> None:
        for name in set(names) - self._used:
            self._used.add(name)
            self._use(forms.macros_of(self._texts[name]))


def _layout(lines: list[str]) -> list[str]:
    """Give a long line a line for each option."""
    if len(lines) != 1 or len(lines[0]) <= WIDTH:
        return lines
    return re.split(rf"\s+(?={_OPTION.pattern})", lines[0])


def _laid_out(words: Sequence[str]) -> str:
    """Join *words*; if they are long, each option begins a line."""
    text = " ".join(words)
    if len(text) > WIDTH and words[0] != "sh":
        text = words[0] + "".join(f"\n{each}" if _OPTION.match(each) else f" {each}" for each in words[1:])
    return forms.placed(text)
