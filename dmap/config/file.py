"""From a text to the schema: variables, paths, and every problem with its place."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dmap.config.access import Key
from dmap.config.document import MOST_CHARACTERS, Document, read_document
from dmap.config.mend import Steps, mended
from dmap.config.problems import ConfigProblem, Source, path_of, section_of, unique
from dmap.config.schema import Config
from dmap.config.secrets import exposed_secrets
from dmap.config.words import in_our_words, steps_of
from dmap.sections import Section
from dmap.sections.near import nearest

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class ConfigFile:
    """
    The file at *path*, which `load` reads anew each time; *source* tells where its keys were the last time.

    Relative paths in it are taken from its folder, `${NAME}` from *environ*.
    """

    def __init__(self, path: Path, environ: Mapping[str, str] = os.environ) -> None:
        self.source = Source(str(path))
        self._path, self._environ = path, environ
        self._values: Any = None

    def load(self) -> Config:
        """Read and check the file; raises `LocatedProblem` with everything that is wrong."""
        self.source = Source(str(self._path))
        with self.source.located():
            document = read_document(read(self._path))
        self.source = Source(str(self._path), document.places)
        self._values = document.values
        with self.source.located():
            return _parsed(document, self._environ, self._path.parent)

    def exposed(self) -> Iterable[str]:
        """Return the secrets in the file, as it was loaded, that others may read."""
        return exposed_secrets(self._path, self._values)


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check the file at *path*, as `ConfigFile` does."""
    return ConfigFile(path, environ).load()


def read(path: Path) -> str:
    """Return the text of the file at *path*, or as much of it as shows that it is too long."""
    try:
        with path.open("rb") as file:
            content = file.read(4 * MOST_CHARACTERS + 1)
        return content.decode("utf-8-sig")[: MOST_CHARACTERS + 1]
    except UnicodeDecodeError as exc:
        raise ConfigProblem([f"cannot be read: {_no_text(content, exc.start)}"]) from exc
    except (OSError, ValueError) as exc:
        raise ConfigProblem([f"cannot be read: {_why(path, exc)}"]) from exc


def _no_text(content: bytes, at: int) -> str:
    if content.startswith(_UTF_16):
        return "it is UTF-16; save it as UTF-8"
    return f"what stands in line {1 + content.count(bytes([10]), 0, at)} is no text in UTF-8"


def _why(path: Path, error: OSError | ValueError) -> str:
    match error:
        case IsADirectoryError():
            return "it is a folder; name the file in it"
        case FileNotFoundError():
            beside = os.listdir(path.parent) if path.parent.is_dir() else ()
            near = nearest(path.name, beside)
            return "there is no such file" + (f"; did you mean {path.parent / near}?" if near else "")
        case PermissionError():
            return "this user may not read it"
        case OSError():
            return str(error.strerror).lower()
    return "no file can have this name"


def parse(text: str, environ: Mapping[str, str], *, base: Path = Path()) -> Config:
    """Check the configuration in *text*, with `${NAME}` taken from *environ*."""
    return _parsed(read_document(text), environ, base)


def _parsed(document: Document, environ: Mapping[str, str], base: Path) -> Config:
    """Return the configuration in *document*, unless it is broken where no section is known."""
    if any(name not in Config.model_fields for name in document.broken):
        raise ConfigProblem(document.problems)
    return checked(Config, document.values, environ, base, said=document.problems, broken=document.broken)


def check_key(text: str) -> None:
    """Check *text* as an item of `access.keys`; raises `ConfigProblem` with paths that begin at that item."""
    checked(Key, values_of(text))


def values_of(text: str) -> Any:
    """Read YAML; raises `ConfigProblem`."""
    document = read_document(text)
    if document.problems:
        raise ConfigProblem(document.problems)
    return document.values


_Checked = TypeVar("_Checked", bound=Section)


def checked(
    whole: type[_Checked],
    values: Any,
    environ: Mapping[str, str] = MappingProxyType({}),
    base: Path = Path(),
    *,
    said: Sequence[str] = (),
    broken: Sequence[str] = (),
) -> _Checked:
    """
    Return *values*, as YAML has them, as the section *whole*; raises `ConfigProblem`.

    Of the values it was *said* already what is wrong; the sections *broken* are not among them.
    """
    variables = _Variables(environ)
    values = variables.fill(values if values is not None else {}, "")
    found, wrong = _validated(whole, values, base)
    if (wrong or broken) and isinstance(values, dict):
        found = _left(whole, values, base, [*((name,) for name in broken), *_steps(values, wrong)])
    said = unique([*said, *variables.problems, *in_our_words(whole, values, wrong)])
    told = {*map(path_of, said), *broken}
    between = found.conflicts() if found is not None else ()
    problems = [*said, *dict.fromkeys(each for each in between if not _is_told(path_of(each), told))]
    if found is None or problems:
        raise ConfigProblem(problems, found, frozenset(map(section_of, (*problems, *broken))))
    return found


def _left(whole: type[_Checked], values: Any, base: Path, wrong: Sequence[Steps]) -> _Checked | None:
    """Return what is left of *values* without what is *wrong*, so that the rest is judged in the same go."""
    left = mended(values, wrong)
    found, still = _validated(whole, left, base)
    if still:
        found, _ = _validated(whole, mended(left, _steps(left, still), entries=True), base)
    return found


def _steps(values: Any, errors: Iterable[ErrorDetails]) -> list[Steps]:
    return [steps_of(values, error) for error in errors]


def _is_told(path: str, told: Iterable[str]) -> bool:
    """Tell whether something at *path* or below it is told: what was left out is not missing."""
    return any(each == path or each.startswith((f"{path}.", f"{path}[")) for each in told)


def _validated(
    whole: type[_Checked], values: Any, base: Path
) -> tuple[_Checked | None, Sequence[ErrorDetails]]:
    """Return *values* as *whole*, or what is wrong with single ones of them."""
    try:
        return whole.model_validate(values, context={"base": base}), ()
    except ValidationError as exc:
        return None, exc.errors()


class _Variables:
    """Puts variables of *environ* into texts, and collects *problems*; all that it puts in has one bound."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._environ = environ
        self._left = MOST_CHARACTERS

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
