"""What the models of a folder are called.  Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from dmap.backends.ask import is_name

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Characters that control something, and bytes that are no text in UTF-8."""


def is_fit(name: str) -> bool:
    """Tell whether clients can send *name*, and lists can show it."""
    return is_name(name) and _UNFIT.search(name) is None


def names_of(files: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """
    Return the other names of each model, by id, that mean no other model.

    *files* has the name of the first file of each.  An id is `folder/folder/stem`.  The others are the id
    without its first folders, the same with the whole file name, and the folder of a model that is alone
    in it: `publisher/model/stem` is `stem`, `model/stem.gguf` and `publisher/model` as well.
    """
    asked = {model: list(dict.fromkeys(_candidates(model, file))) for model, file in files.items()}
    count = Counter(name for names in asked.values() for name in names)
    count.update(files.keys())
    return {model: tuple(name for name in names if _means_one(name, count)) for model, names in asked.items()}


def _means_one(name: str, count: Counter[str]) -> bool:
    return count[name] == 1 and is_fit(name)


def _candidates(model: str, file: str) -> Iterator[str]:
    *folders, stem = model.split("/")
    whole = "/".join([*folders, file])
    yield from _tails(model, 1)
    yield from _tails(whole, 0)
    if folders:
        yield from _tails("/".join(folders), 0)


def _tails(name: str, start: int) -> Iterable[str]:
    parts = name.split("/")
    return ("/".join(parts[at:]) for at in range(start, len(parts)))
