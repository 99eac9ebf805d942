"""From YAML to the schema: variables, paths, and every problem with its place in the file."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dmap.config.access import Key
from dmap.config.schema import Config
from dmap.kinds import KINDS
from dmap.sections import Section
from dmap.sections.models import FURTHER

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MOST_CHARACTERS = 2**20
"""Of a whole file, and of all that variables put into it."""
_MOST_VALUES = 50_000
"""Of a whole file, with every alias unfolded."""
_LONGEST_NUMBER = 100
"""Of a number's characters: to read a long one takes the square of its length, in base 60 or any other."""


class ConfigProblem(Exception):
    """The file cannot be used; *problems* lists why, each line with its path in the file."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """
    Read and check the file at *path*; relative paths in it are taken from its folder.

    Raises `ConfigProblem` with everything that is wrong.
    """
    return parse(read(path), environ, base=path.parent)


def read(path: Path) -> str:
    """Return the text of the file at *path*, or as much of it as shows that it is too long."""
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_MOST_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigProblem([f"{path}: cannot be read: {exc}"]) from exc


def parse(text: str, environ: Mapping[str, str], *, base: Path = Path()) -> Config:
    """Check the configuration in *text*, with `${NAME}` taken from *environ*."""
    return checked(Config, values_of(text), environ, base)


def check_key(text: str) -> None:
    """Check *text* as an item of `access.keys`; raises `ConfigProblem` with paths that begin at that item."""
    checked(Key, values_of(text))


_Checked = TypeVar("_Checked", bound=Section)


def checked(
    whole: type[_Checked], values: Any, environ: Mapping[str, str] = MappingProxyType({}), base: Path = Path()
) -> _Checked:
    """Return *values*, as YAML has them, as the section *whole*; raises `ConfigProblem`."""
    variables = _Variables(environ)
    values = variables.fill(values if values is not None else {}, "")
    found, wrong = _validated(whole, values, base)
    if wrong and isinstance(values, dict):  # what does not fit together among the rest is told in the same go
        for error in wrong:
            _drop(values, error["loc"])
        found, _ = _validated(whole, values, base)
    said = [*variables.problems, *map(_said, wrong)]
    places = {problem.partition(": ")[0] for problem in said}  # what was dropped is not missing
    between = found.conflicts() if found is not None else ()
    problems = [*said, *(each for each in between if each.partition(": ")[0] not in places)]
    if found is None or problems:
        raise ConfigProblem(problems)
    return found


def _validated(
    whole: type[_Checked], values: Any, base: Path
) -> tuple[_Checked | None, Sequence[ErrorDetails]]:
    """Return *values* as *whole*, or what is wrong with single ones of them."""
    try:
        return whole.model_validate(values, context={"base": base}), ()
    except ValidationError as exc:
        return None, exc.errors()


def _drop(values: dict[Any, Any], place: tuple[int | str, ...]) -> None:
    """Take the value at *place* out of *values*; the names of kinds in *place* are not in the file."""
    for step in place[:-1]:
        inner = values.get(step)
        values = inner if isinstance(inner, dict) else values
    if place:
        values.pop(place[-1], None)


def values_of(text: str) -> Any:
    """Read YAML; what is wrong is said without the text around it, which may be a secret."""
    if len(text) > _MOST_CHARACTERS:
        raise ConfigProblem([f"the file is longer than {_MOST_CHARACTERS} characters"])
    try:
        return yaml.load(text, Loader=_OneOfEach)
    except yaml.MarkedYAMLError as exc:
        problem = re.sub(r"'[^']{2,}'", "...", exc.problem or "unreadable")
        raise _not_yaml(problem, exc.problem_mark) from exc
    except yaml.reader.ReaderError as exc:
        raise _not_yaml(f"{exc.reason} (position {exc.position})") from exc
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as exc:
        # PyYAML lets through what int(), datetime() and its own tables say to a scalar like 2024-13-45.
        raise _not_yaml("a value in it has the form of a number or a date but is none") from exc


def _not_yaml(problem: str, mark: yaml.Mark | None = None) -> ConfigProblem:
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    return ConfigProblem([f"not YAML: {place}{problem}"])


class _OneOfEach(yaml.SafeLoader):
    """
    A loader that refuses a key given twice, where YAML would silently take the last.

    It also counts the values while it reads, before anything is made of them.  An alias counts as all that
    it stands for, in a merge (`<<`) too, because a few lines may unfold to more than a memory holds.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._unfolded: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        is_alias, before = self.check_event(yaml.AliasEvent), self._values
        if not is_alias:
            self._count(1)
        node = super().compose_node(parent, index)
        assert node is not None, "an event that is no end has a node"
        if is_alias:  # one inside the very node that it stands for has no end
            self._count(self._unfolded.get(node, _MOST_VALUES))
        else:
            self._unfolded[node] = self._values - before
            _check_node(node)
        return node

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > _MOST_VALUES:
            raise _not_yaml("its anchors unfold to too much, or it is too long")


def _check_node(node: yaml.Node) -> None:
    """Refuse a mapping with a text twice among its keys, and a number that would take long to read."""
    problem = ""
    if isinstance(node, yaml.MappingNode):
        seen = Counter(key.value for key, _ in node.value if key.tag == "tag:yaml.org,2002:str")
        problem = next((f"the key {key!r} is given twice" for key, count in seen.items() if count > 1), "")
    elif node.tag.endswith((":int", ":float")) and len(node.value) > _LONGEST_NUMBER:
        problem = f"a number of {len(node.value)} characters"
    if problem:
        raise _not_yaml(problem, node.start_mark)


class _Variables:
    """Puts variables of *environ* into texts, and collects *problems*; all that it puts in has one bound."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._environ = environ
        self._left = _MOST_CHARACTERS

    def fill(self, value: Any, at: str) -> Any:
        """Return *value*, which stands *at* a path in the file, with the variables in its texts replaced."""
        if isinstance(value, dict):
            return {name: self.fill(each, f"{at}.{name}".lstrip(".")) for name, each in value.items()}
        if isinstance(value, list):
            return [self.fill(each, f"{at}[{i}]") for i, each in enumerate(value)]
        if not isinstance(value, str):
            return value
        names = _VARIABLE.findall(value)
        missing = [name for name in dict.fromkeys(names) if name not in self._environ]
        self.problems += [f"{at}: the environment has no variable {name}" for name in missing]
        if "${" in _VARIABLE.sub("", value):
            self.problems.append(f"{at}: write a variable of the environment as ${{NAME}}")
        self._left -= sum(len(self._environ.get(name, "")) for name in names)
        if self._left < 0:
            raise ConfigProblem([f"{at}: with its variables the file is too long"])
        return _VARIABLE.sub(lambda match: self._environ.get(match[1], ""), value)


def _said(error: ErrorDetails) -> str:
    """Write one of pydantic's errors as `path: what is wrong`."""
    loc = error["loc"]
    # pydantic puts the kind of a backend behind its name.
    where = [step for at, step in enumerate(loc) if at != 2 or loc[0] != "backends" or step not in KINDS]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    if error["type"] == "extra_forbidden":
        return f"{path}: no such key" + (", or a second spelling of one" if where[-1] in FURTHER else "")
    if error["type"] == "union_tag_invalid":
        return f"{path}.kind: {error['ctx']['tag']!r} is not built; there are: {', '.join(KINDS)}"
    if error["type"] == "union_tag_not_found":
        return f"{path}.kind: missing; there are: {', '.join(KINDS)}"
    if error["type"] in ("dict_type", "model_type", "model_attributes_type"):
        return f"{path or 'the file'}: must be a mapping (key: value)"
    return f"{path or 'the file'}: {error['msg'].removeprefix('Value error, ')}"
