"""What is wrong with a configuration, as it is told: a line for each problem, with its path and its place."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from dmap.sections.section import Section

Place = tuple[int, int]
"""A line and a column of a file, both from 1 on."""

_OWN_PLACE = re.compile(r"line (\d+), column (\d+): ")
_STEP = re.compile(r"(\.[^.\[]*|\[[^\[]*)$")


class ConfigProblem(Exception):
    """
    The file cannot be used; *problems* lists why, each line with its path in the file.

    *left* is what is left of it without the wrong values, where that could be made out, and *wrong* are the
    sections that these were in.
    """

    def __init__(
        self, problems: list[str], left: Section | None = None, wrong: frozenset[str] = frozenset()
    ) -> None:
        super().__init__("\n".join(problems))
        self.problems, self.left, self.wrong = problems, left, wrong


class LocatedProblem(ConfigProblem):
    """The same, each line with its file, line and column in front, as compilers write them."""


def path_of(problem: str) -> str:
    """Return the path that *problem* begins with."""
    return problem.partition(": ")[0]


def section_of(problem: str) -> str:
    """Return the section that *problem*, or a path, is in."""
    return re.split(r"[.\[:]", problem, maxsplit=1)[0]


def unique(problems: Iterable[str]) -> list[str]:
    """Return *problems*, of each path the first only: what is wrong there comes of that."""
    return list({path_of(each): each for each in reversed([*problems])}.values())[::-1]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a configuration was read: its file's *name*, if any, and the *places* of keys by their paths."""

    name: str = ""
    places: Mapping[str, Place] = field(default_factory=dict)

    def locate(self, problems: Iterable[str], mark: str = "") -> list[str]:
        """Return *problems* with their places and a *mark*, in the order of the file."""
        return [
            ":".join([self.name, *map(str, place), f" {mark}{what}"]).lstrip(": ")
            for place, what in sorted(map(self._placed, problems), key=lambda each: each[0])
        ]

    @contextmanager
    def located(self) -> Iterator[None]:
        """Give the problems that are raised inside their places, unless they have them."""
        try:
            yield
        except LocatedProblem:
            raise
        except ConfigProblem as exc:
            raise LocatedProblem(self.locate(exc.problems), exc.left, exc.wrong) from exc

    def _placed(self, problem: str) -> tuple[Place | tuple[()], str]:
        """Return the place of *problem*, or of what stands around it, and the words."""
        if own := _OWN_PLACE.match(problem):
            return (int(own[1]), int(own[2])), problem[own.end() :]
        problem = problem.removeprefix("the file: ")
        path = path_of(problem)
        while path and path not in self.places:
            path = _STEP.sub("", path) if _STEP.search(path) else ""
        return self.places.get(path, ()), problem
