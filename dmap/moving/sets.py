"""
Which models llama-swap lets be resident together, as lists: by its groups, or by its matrix of sets.

A group's members take turns (`swap`) or stay together; a group clears the device of others (`exclusive`) or
comes beside them; others may not clear it away (`persistent`).  Those that may be there at once are then: all
groups that are persistent or not exclusive, and one of the others; of each that swaps, one member.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from dmap.moving.source import Table, go_text

MOST = 256
"""Of lists; a matrix of a few lines may mean millions."""

_TOKEN = re.compile(r"\s*(?:([&|()])|(\+?[\w.-]+))")

Lists = list[tuple[str, ...]]


class Sets:
    """
    The lists of models that may be together, each of two at least, and what is said of those that are not.

    `pinned` are members of groups that nobody else may push out.
    """

    def __init__(self) -> None:
        self.lists: Lists = []
        self.pinned: list[str] = []
        self.notes: list[str] = []

    def _take(self, lists: Iterator[tuple[str, ...]]) -> None:
        several = (tuple(dict.fromkeys(each)) for each in lists)
        self.lists = list(dict.fromkeys(each for each in several if len(each) > 1))


def of_groups(groups: Any, models: Sequence[str]) -> Sets:
    """Return the sets of *groups*; those of the *models* in none are one more, whose members take turns."""
    sets = Sets()
    alone: list[Lists] = []
    beside: list[Lists] = []
    grouped: set[str] = set()
    for name, values in groups.items() if isinstance(groups, dict) else ():
        group = Table(values)
        swaps, clears = group.flag("swap", True), group.flag("exclusive", True)
        stays, members = group.flag("persistent", False), list(dict.fromkeys(group.texts("members")))
        known = [member for member in members if member in models]
        sets.notes += [
            f"groups.{name}: there is no model {member!r}" for member in members if member not in models
        ]
        sets.notes += [
            f"groups.{name}.{key}: {go_text(value)} (llama-swap has no such key)"
            for key, value in group.rest()
        ]
        grouped |= set(known)
        choices: Lists = [(each,) for each in known] if swaps else [tuple(known)]
        if known:
            (beside if stays or not clears else alone).append(choices)
        if stays and (not swaps or len(known) == 1):
            sets.pinned += known
        elif stays and known:
            sets.notes.append(
                f"groups.{name}: persistent, but its members take turns, so none of them is pinned"
            )
    rest: Lists = [(each,) for each in models if each not in grouped]
    alone += [rest] if rest else []
    several = [[*beside, choices] for choices in alone] or [beside]
    if sum(prod(map(len, each)) for each in several) > MOST:
        sets.notes.append(
            f"groups: more than {MOST} lists of models would say the same; memory does it better"
        )
    else:
        sets._take(sum(chosen, ()) for each in several for chosen in product(*each))
    return sets


def of_matrix(matrix: Any, models: Collection[str]) -> Sets:
    """Return the sets of a *matrix* of *models*."""
    sets, table = Sets(), Table(matrix)
    short, texts = table.take("vars", {}), table.take("sets", {})
    texts = {name: go_text(text) for name, text in texts.items()} if isinstance(texts, dict) else {}
    meant = {name: go_text(model) for name, model in short.items()} if isinstance(short, dict) else {}
    if costs := table.take("evict_costs"):
        sets.notes.append(
            f"matrix.evict_costs: {go_text(costs)} (dmap measures what each load costs, and goes by that)"
        )
    lists: Lists = []
    for name, text in texts.items():
        try:
            lists += _Expression(text, texts, meant, models).read()
        except ValueError as exc:
            sets.notes.append(f"matrix.sets.{name}: {text} ({exc})")
    if len(lists) > MOST:
        sets.notes.append(f"matrix.sets: more than {MOST} lists of models; memory does it better")
    else:
        sets._take(iter(lists))
    return sets


class _Expression:
    """An expression of sets: `a & (b | c)`, and `+name` for the expression of another set."""

    def __init__(
        self,
        text: str,
        texts: Mapping[str, str],
        meant: Mapping[str, str],
        models: Collection[str],
        inside: int = 0,
    ) -> None:
        found = [match[1] or match[2] for match in _TOKEN.finditer(text)]
        if "".join(found) != re.sub(r"\s", "", text):
            raise ValueError("cannot be read")
        self._tokens = found
        self._texts, self._meant, self._models, self._inside = texts, meant, models, inside

    def read(self) -> Lists:
        """Return the lists that it means; raises ValueError for too many, and for what it cannot be."""
        lists = self._any()
        if self._tokens:
            raise ValueError("cannot be read")
        return lists

    def _any(self) -> Lists:
        lists = self._all()
        while self._tokens[:1] == ["|"]:
            self._tokens.pop(0)
            lists = self._bounded(lists + self._all())
        return lists

    def _all(self) -> Lists:
        lists = self._one()
        while self._tokens[:1] == ["&"]:
            self._tokens.pop(0)
            others = self._one()
            self._bounded(lists, len(others))
            lists = [left + right for left in lists for right in others]
        return lists

    def _one(self) -> Lists:
        token = self._tokens.pop(0) if self._tokens else ""
        if token == "(":
            lists = self._any()
            if self._tokens[:1] != [")"]:
                raise ValueError("a bracket is not closed")
            self._tokens.pop(0)
            return lists
        if token.startswith("+"):
            return self._other(token[1:])
        model = self._meant.get(token, token)
        if model not in self._models:
            raise ValueError(f"there is no model {model!r}")
        return [(model,)]

    def _other(self, name: str) -> Lists:
        if name not in self._texts or self._inside > len(self._texts):
            raise ValueError(f"there is no set {name!r}, or it is part of itself")
        inner = _Expression(self._texts[name], self._texts, self._meant, self._models, self._inside + 1)
        return inner.read()

    def _bounded(self, lists: Lists, times: int = 1) -> Lists:
        if len(lists) * times > MOST:
            raise ValueError(f"more than {MOST} lists of models; memory does it better")
        return lists
