"""
A configuration of llama-swap as llama-swap reads it: YAML by its rules, and its variables of the environment.

Its YAML is Go's `yaml.v3`, which is YAML 1.2 where PyYAML is 1.1: `on` and `1:30` are texts.  `${env.NAME}`
stands for a text before YAML is read, so it may stand anywhere; here it becomes a mark, which is written out
as dmap's `${NAME}`.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from dmap.config import ConfigProblem

MOST_CHARACTERS = 2**20
MOST_VALUES = 50_000
"""Of a whole file, with every alias unfolded; a configuration of dmap has the same two bounds."""

_ENV = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")
_MARK = re.compile("\uf8f0([A-Za-z_][A-Za-z0-9_]*)\uf8f1")
_INT = re.compile(r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_LONGEST_NUMBER = 100
_OTHERS = {yaml.ScalarNode: "str", yaml.SequenceNode: "seq", yaml.MappingNode: "map"}
_YES = ("y", "yes", "on", "true")


def read(text: str) -> Mapping[str, Any]:
    """Return the values of *text*.  Raises `ConfigProblem`; no value is told, for it may be a secret."""
    if len(text) > MOST_CHARACTERS:
        raise ConfigProblem([f"the file is longer than {MOST_CHARACTERS} characters"])
    try:
        values = yaml.load(_ENV.sub("\uf8f0\\1\uf8f1", text), Loader=_Loader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = re.sub(r"'[^']{2,}'", "...", exc.problem or "unreadable")
        raise ConfigProblem([f"not YAML: {where}{problem}"]) from exc
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise ConfigProblem(["not YAML: it has a character or a value that no text has"]) from exc
    if not isinstance(values, dict):
        raise ConfigProblem(["not a configuration of llama-swap: must be a mapping (key: value)"])
    return values


def written(text: str) -> str:
    """Return *text* with the marks of variables as dmap has them."""
    return _MARK.sub(r"${\1}", text)


def anything(text: str) -> str:
    """Return *text* with a 1 for each variable: what it holds shows only when dmap starts."""
    return _MARK.sub("1", text)


def variable(text: str) -> str | None:
    """Return the name of the variable that *text* is; None if it is anything else."""
    found = _MARK.fullmatch(text)
    return found[1] if found else None


def resolved(text: str, environ: Mapping[str, str]) -> str | None:
    """Return *text* with its variables taken from *environ*; None if one is not there."""
    if any(name not in environ for name in _MARK.findall(text)):
        return None
    return _MARK.sub(lambda mark: environ[mark[1]], text)


class Table:
    """A mapping of the source from which values are taken; `rest` is what nobody has taken."""

    def __init__(self, values: Any) -> None:
        self._left = dict(values) if isinstance(values, dict) else {}

    def take(self, key: str, default: Any = None) -> Any:
        """Return the value of *key* and take it out; *default* if there is none, or nothing behind it."""
        value = self._left.pop(key, None)
        return default if value is None else value

    def peek(self, key: str) -> Any:
        """Return the value of *key*, and leave it."""
        return self._left.get(key)

    def text(self, key: str) -> str:
        """Take a text, also where YAML has a number."""
        value = self.take(key, "")
        return value if isinstance(value, str) else go_text(value)

    def number(self, key: str, environ: Mapping[str, str]) -> int | None:
        """Take a number; None if there is none, or it is none."""
        value = self.take(key)
        if isinstance(value, str):
            value = resolved(value, environ)
        try:
            return int(value) if not isinstance(value, bool) else None
        except (TypeError, ValueError, OverflowError):
            return None

    def flag(self, key: str, default: bool) -> bool:
        """Take what is true or false, in any spelling of YAML."""
        value = self.take(key, default)
        return value.lower() in _YES if isinstance(value, str) else bool(value)

    def texts(self, key: str) -> list[str]:
        """Take a list of texts."""
        value = self.take(key, [])
        several = value if isinstance(value, list) else [value]
        return [each if isinstance(each, str) else go_text(each) for each in several if each is not None]

    def table(self, key: str) -> "Table":
        """Take a mapping."""
        return Table(self.take(key, {}))

    def rest(self) -> Iterator[tuple[str, Any]]:
        """Yield what is left, but for keys with nothing behind them."""
        return ((key, value) for key, value in self._left.items() if value is not None)


def go_text(value: Any) -> str:
    """Write *value* as Go's `%v` does, by which macros become parts of texts."""
    match value:
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < 1e21:
            return str(int(value))
        case float():
            return repr(value)
    return str(value)


class _Loader(yaml.SafeLoader):
    """
    Reads scalars as `yaml.v3` does, and keys as texts; refuses a key given twice, as that does.

    It counts the values while it reads; an alias counts as all that it stands for.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._unfolded: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        is_alias, before = self.check_event(yaml.AliasEvent), self._values
        node = super().compose_node(parent, index)
        assert node is not None, "an event that is no end has a node"
        self._values += self._unfolded.get(node, MOST_VALUES) if is_alias else 1
        if self._values > MOST_VALUES:
            raise ConfigProblem([f"its anchors unfold to more than {MOST_VALUES} values, or it is too long"])
        if not is_alias:
            self._unfolded[node] = self._values - before
        return node

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: Any) -> str:
        if kind is yaml.ScalarNode and implicit[0] and value is not None:
            return f"tag:yaml.org,2002:{_kind_of(value)}"
        return f"tag:yaml.org,2002:{_OTHERS[kind]}"

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := next((name for name, count in seen.items() if count > 1), None):
            raise ConfigProblem(
                [f"not YAML: line {node.start_mark.line + 1}: the key {twice!r} is given twice"]
            )
        self.flatten_mapping(node)
        own = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        return dict(
            zip(own, (self.construct_object(value, deep=deep) for _, value in node.value), strict=True)
        )

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        digits = node.value.replace("_", "")
        octal = re.fullmatch(r"([-+]?)0([0-7]+)", digits)
        return int(f"{octal[1]}0o{octal[2]}" if octal else digits, 0)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return float(node.value.replace(".inf", "inf").replace(".nan", "nan").lower())


def _kind_of(value: str) -> str:
    if value in ("", "~", "null", "Null", "NULL"):
        return "null"
    if value in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return "bool"
    if value == "<<":
        return "merge"
    if len(value) <= _LONGEST_NUMBER and _INT.fullmatch(value):
        return "int"
    return "float" if len(value) <= _LONGEST_NUMBER and _FLOAT.fullmatch(value) else "str"


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", getattr(_Loader, f"construct_yaml_{_kind}"))
