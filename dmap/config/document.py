"""
The text of a configuration as YAML has it: its values, where each of them stands, and what is wrong so far.

What YAML itself cannot read is told in words for the owner of the file.  Then the section it stands in is
left out, and the rest is read.  So is a value that YAML reads as something that nobody means: a time as a
number, a number with a 0 in front as an octal one.  No value is ever told, for it may be a secret.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from dmap.config.problems import ConfigProblem, Place

MOST_CHARACTERS = 2**20
"""Of a whole file, and of all that variables put into it."""
_MOST_VALUES = 50_000
"""Of a whole file, with every alias unfolded."""
_LONGEST_NUMBER = 100
"""Of a number's characters: to read a long one takes the square of its length, in base 60 or any other."""
_MOST_DEEP = 100
"""Lists and mappings in each other."""
_MOST_SECTIONS = 64
"""Of a broken file, each of which is read by itself."""

_QUOTED = "takes quotes: YAML has a meaning of its own for it"
_SYNTAX = (
    (r"'\\t' that cannot start", "", "a tab; YAML takes spaces only"),
    ("", r"^ *\t", "a tab; YAML takes spaces only"),
    ("directive", "", f"a line that begins with % {_QUOTED}"),
    ("scanning a tag", "", f"a text that begins with ! {_QUOTED}"),
    (r"[@%`].* that cannot start", "", f"a text that begins with @, % or ` {_QUOTED}"),
    ("undefined alias", "", f"a text that begins with * {_QUOTED}, an alias (and there is no such one)"),
    ("expected alphabetic or numeric", "", f"a text that begins with *, & or ! {_QUOTED}"),
    ("duplicate anchor|second occurrence", "", "two anchors (&NAME) of one name"),
    ("escape", "", r"in double quotes \ begins an escape, as in paths of Windows; write single quotes"),
    ("unexpected end of stream", "", "a quote that nothing closes"),
    (
        "expected ',' or|stream end",
        "",
        "a { or [ that nothing closes, or a comma or quotes are missing in it",
    ),
    ("block end.*<scalar>", r"[}\]] *$", f"a text that begins with {{ or [ {_QUOTED}"),
    ("block end.*<scalar>", r"['\"] *$", "something stands behind the closing quote"),
    (r"block end.*'[}\]]'", "", "a } or ] too many"),
    ("block end.*'-'", "", "an item of a list (- ...) among keys; it stands below its key, further in"),
    ("block end|expected '<document start>'", "", "not indented like the lines above it"),
    (
        "values are not allowed",
        r":\s.*\S",
        "a second colon in this line; a text with ': ' in it takes quotes",
    ),
    ("values are not allowed", "", "not indented like its neighbours, or the line above lacks its colon"),
    ("could not find expected ':'", "", "a key without a colon and a space behind it"),
    ("chomping or indentation", "", "a text of several lines begins below its | or >, not beside it"),
    ("another document|<document start>", "", "a second document; leave out the ---"),
    ("keys are not allowed|node content", "", f"a text that begins with a sign of YAML {_QUOTED}"),
)
"""What PyYAML says (a pattern), what stands left of the place in its line (a pattern), what we say."""
_FROM_ITS_BEGINNING = re.compile("flow|quoted|simple key")
"""Of what is told at the place where it begins, because that it ends nowhere is noticed much later."""


@dataclass
class Document:
    """
    What YAML makes of a text: *values*, and the *places* of keys by their paths, each a line and a column.

    *problems* are told with their paths or places.  *broken* are sections that could not be read.
    """

    values: Any = None
    places: dict[str, Place] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def read_document(text: str) -> Document:
    """Read *text*; raises `ConfigProblem` where nothing can be made of it."""
    if len(text) > MOST_CHARACTERS:
        raise ConfigProblem([f"the file is longer than {MOST_CHARACTERS} characters"])
    document = Document()
    loader, node = _composed(text, document)
    if node is not None:
        document.problems += _walk(loader, node, "", document.places)
        document.values = loader.construct_document(node)
    document.places.setdefault("", (1, 1))
    return document


def _composed(text: str, document: Document) -> "tuple[_Counting, yaml.Node | None]":
    """Return the nodes of *text*, without the sections of it that cannot be read."""
    try:
        return _nodes(text)
    except yaml.MarkedYAMLError as exc:
        first = _syntax(exc, text)
    left = text.splitlines()
    for section in _sections(left)[:_MOST_SECTIONS]:
        alone = "\n" * section.start + "\n".join(left[section.start : section.stop])
        try:
            _nodes(alone)
        except yaml.MarkedYAMLError as exc:
            if _is_of_another(exc, text):
                continue
            document.problems.append(_syntax(exc, alone))
            document.broken.append(left[section.start].partition(":")[0])
            left[section.start : section.stop] = [""] * len(section)
    try:
        return _nodes("\n".join(left))
    except yaml.MarkedYAMLError as exc:
        raise ConfigProblem(document.problems or [first]) from exc


def _nodes(text: str) -> "tuple[_Counting, yaml.Node | None]":
    try:
        loader = _Counting(text)
    except yaml.reader.ReaderError as exc:
        line, column = text.count("\n", 0, exc.position), exc.position - text.rfind("\n", 0, exc.position) - 1
        problem = f"{_place(line, column)}a character that no text has (code {exc.character})"
        raise ConfigProblem([problem]) from exc
    return loader, loader.get_single_node()


def _sections(lines: Sequence[str]) -> list[range]:
    """Return the lines of each section; what stands before the first key is with the first lines."""
    starts = [at for at, line in enumerate(lines) if at == 0 or re.match(r"[A-Za-z_'\"][^#]*:", line)]
    return [range(*each) for each in itertools.pairwise([*starts, len(lines)])]


def _is_of_another(error: yaml.MarkedYAMLError, text: str) -> bool:
    """Tell whether a section by itself only lacks an anchor that another one has."""
    alias = re.search("undefined alias '(.*)'", error.problem or "")
    return alias is not None and re.search(f"&{re.escape(alias[1])}(?![0-9A-Za-z_-])", text) is not None


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
    """Return what *error* means, with its place."""
    mark, said = error.problem_mark or error.context_mark, f"{error.context or ''} {error.problem or ''}"
    if error.context_mark and _FROM_ITS_BEGINNING.search(error.context or "") and "escape" not in said:
        mark = error.context_mark
    assert mark is not None, "PyYAML says where"
    left = "".join(text.splitlines()[mark.line : mark.line + 1])[: mark.column]
    words = next(
        (words for ours, line, words in _SYNTAX if re.search(ours, said) and re.search(line, left)),
        "this cannot be read as YAML",
    )
    return f"{_place(mark.line, mark.column)}{words}"


def _place(line: int, column: int) -> str:
    return f"line {line + 1}, column {column + 1}: "


class _Counting(yaml.SafeLoader):
    """
    A loader that counts the values while it reads, before anything is made of them.

    An alias counts as all that it stands for, in a merge (`<<`) too, because a few lines may unfold to more
    than a memory holds.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = self._depth = 0
        self._unfolded: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        is_alias, before, place = (
            self.check_event(yaml.AliasEvent),
            self._values,
            _told(self.current_event.start_mark),
        )
        self._depth += 1
        if self._depth > _MOST_DEEP:
            raise ConfigProblem([f"{place}more than {_MOST_DEEP} lists and mappings in each other"])
        if not is_alias:
            self._count(1, place)
        node = super().compose_node(parent, index)
        assert node is not None, "an event that is no end has a node"
        self._depth -= 1
        if is_alias:  # one inside the very node that it stands for has no end
            self._count(self._unfolded.get(node, _MOST_VALUES), place)
        else:
            self._unfolded[node] = self._values - before
            if node.tag.endswith((":int", ":float")) and len(node.value) > _LONGEST_NUMBER:
                raise ConfigProblem([f"{_told(node.start_mark)}a number of {len(node.value)} characters"])
        return node

    def _count(self, values: int, place: str) -> None:
        self._values += values
        if self._values > _MOST_VALUES:
            raise ConfigProblem([f"{place}with what its aliases stand for, the file has too many values"])


def _place_of(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _told(mark: yaml.Mark) -> str:
    return _place(mark.line, mark.column)


def _walk(loader: _Counting, node: yaml.Node, path: str, places: dict[str, Place]) -> Iterator[str]:
    """Yield what is wrong with single nodes, and mend it; note the places of all."""
    places.setdefault(path, _place_of(node))
    where = f"{path or 'the file'}: "
    plain = _PLAIN.get(type(node), node.tag)
    if node.tag != plain:
        node.tag = plain
        yield f"{where}{_TAGGED}"
    match node:
        case yaml.MappingNode():
            yield from _walk_mapping(loader, node, path, places)
        case yaml.SequenceNode():
            for index, item in enumerate(node.value):
                yield from _walk(loader, item, f"{path}[{index}]", places)
        case yaml.ScalarNode() if node.tag != _TEXT and (problem := _misread(loader, node)):
            node.tag = _TEXT
            yield f"{where}{problem}"


def _walk_mapping(
    loader: _Counting, node: yaml.MappingNode, path: str, places: dict[str, Place]
) -> Iterator[str]:
    """Have every key be a text, as it is written, and be there once; the last one stays, as in YAML."""
    lines, merged, own = dict[str, int](), [], {}
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            merged += [(key, value)] if _is_mergeable(value) else []
            yield from (
                ()
                if _is_mergeable(value)
                else [f"{_told(key.start_mark)}<< takes an alias of a mapping (*NAME)"]
            )
        elif not isinstance(key, yaml.ScalarNode):
            yield f"{_told(key.start_mark)}a key that begins with {{ or [ {_QUOTED}"
        else:
            key.tag, inner = _TEXT, f"{path}.{key.value}".lstrip(".")
            if key.value in own:
                yield f"{inner}: given twice, before in line {lines[key.value]}"
            places[inner] = _place_of(key)
            lines[key.value], own[key.value] = places[inner][0], (key, value)
            yield from _walk(loader, value, inner, places)
    node.value = [*merged, *own.values()]


def _is_mergeable(value: yaml.Node) -> bool:
    several = value.value if isinstance(value, yaml.SequenceNode) else [value]
    return all(isinstance(each, yaml.MappingNode) for each in several)


_TEXT = "tag:yaml.org,2002:str"
_PLAIN: Mapping[type[yaml.Node], str] = {
    yaml.MappingNode: "tag:yaml.org,2002:map",
    yaml.SequenceNode: "tag:yaml.org,2002:seq",
}
_TAGGED = f"a text that begins with ! {_QUOTED}"
_NUMBERS = (
    ("[-+]?0[0-7_]+", "begins with 0, so YAML takes it for octal; leave the 0 out, or put it in quotes"),
    (
        "[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+.*",
        "has a colon, so YAML counts it in sixties; put a text in quotes",
    ),
)


def _misread(loader: _Counting, node: yaml.ScalarNode) -> str | None:
    """Say what keeps YAML from reading a value, or that it is read as something that nobody means."""
    if node.tag.endswith((":int", ":float")):
        for pattern, words in _NUMBERS:
            if re.fullmatch(pattern, node.value):
                return words
    try:
        loader.construct_object(node)
        return None
    except yaml.MarkedYAMLError:
        return _TAGGED
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # PyYAML lets through what int(), datetime() and its own tables say to a scalar like 2024-13-45.
        return "has the form of a number or a date but is none; put a text in quotes"
    finally:
        loader.recursive_objects.pop(node, None)  # where it was left by an error
