"""What somebody meant who wrote another word."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: object, words: Iterable[str], *, cutoff: float = 0.65) -> str | None:
    """
    Return that of *words* which *word* looks like, if any; capitals, `-` and `_` make no difference.

    *cutoff* is how much they have to be alike, from 0 to 1, as `difflib` reckons it.
    """
    known = {_plain(each): each for each in words}
    found = get_close_matches(_plain(str(word)[:64]), known, n=1, cutoff=cutoff)
    return known[found[0]] if found else None


def meant(word: object, words: Iterable[str]) -> str:
    """Return the question whether one of *words* was meant, to be put behind a problem; else nothing."""
    near = nearest(word, words)
    return f"; did you mean {near}?" if near is not None else ""


def _plain(word: str) -> str:
    return word.replace("-", "").replace("_", "").casefold()
