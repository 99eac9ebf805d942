"""
Which projector belongs to which model: the file that gives it eyes or ears, which lies beside it.  Pure.

No file says so for certain.  A folder with quantisations of one model and projectors is what a repository
looks like, so there the projector is that model's.  Among several models it has to bear the name of its own:
`mmproj-NAME-f16`, `NAME.mmproj-f16` and so on.  With one that was made for another model the load fails, or
the answers are nonsense.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from dmap.backends.gguf.file import ModelFile
from dmap.backends.gguf.header import PROJECTOR, UNREADABLE

_SEPARATOR = re.compile(r"[-_. ]+")
_QUANT = re.compile(r"(ud-)?(b?f(16|32)|fp(16|32)|[it]?q\d\w*|mxfp\d\w*)", re.IGNORECASE)
_SAYS_NOTHING = frozenset(("mmproj", "model", ""))


def is_projector_name(name: str) -> bool:
    """Tell whether llama.cpp takes a file of this *name* for a projector (`is_mmproj_file`, preset.cpp)."""
    return "mmproj" in name.lower()


def with_projectors(files: Iterable[ModelFile]) -> Iterator[ModelFile]:
    """Return those of the *files* that are models, each with its projector, if there is one."""
    homes: dict[tuple[str, ...], tuple[list[ModelFile], list[ModelFile]]] = {}
    for file in files:
        models, projectors = homes.setdefault(_home(file), ([], []))
        (projectors if file.header.type == PROJECTOR else models).append(file)
    for models, projectors in homes.values():
        is_one = len({_kin(model) for model in models if model.header != UNREADABLE}) == 1
        yield from (replace(model, projector=_best(model, projectors, is_one)) for model in models)


def _best(model: ModelFile, projectors: Sequence[ModelFile], is_one: bool) -> ModelFile | None:
    """Prefer the one with the most of the name, then the one with 16 bits, which every device can read."""
    fitting = [each for each in projectors if _fits(model, each) and (_named(model, each) or is_one)]
    return min(fitting, key=lambda each: (-_named(model, each), not each.header.half, each.id), default=None)


def _fits(model: ModelFile, projector: ModelFile) -> bool:
    is_read = model.header != UNREADABLE and not model.header.embedding
    return is_read and projector.header.width in (0, model.header.width)


def _named(model: ModelFile, projector: ModelFile) -> int:
    """Count the words of *model*'s name that *projector* begins with; 0 if it has others as well."""
    words = _words(projector)
    return len(words) if words == _words(model)[: len(words)] else 0


def _words(file: ModelFile) -> list[str]:
    """Return the words of a file's name before its quantisation."""
    stem = file.id.rpartition("/")[2].lower()
    words = [word for word in _SEPARATOR.split(stem) if word not in _SAYS_NOTHING]
    quant = next((at for at, word in enumerate(words) if _QUANT.fullmatch(word)), len(words))
    return words[:quant]


def _home(file: ModelFile) -> tuple[str, ...]:
    """Return the folders of its repository: one that is called by a quantisation is a part of that."""
    return file.place[:-1] if file.place and _QUANT.fullmatch(file.place[-1]) else file.place


def _kin(model: ModelFile) -> tuple[str, int, int]:
    """Return what all quantisations of one model have in common."""
    return (model.header.architecture, model.header.width, model.header.cache_bytes)
