"""
How many tokens a prompt has: exactly by its model's own tokenizer, else at the least.

The bound rests on words.  Tokenizers cut a text at white space before they do anything else, so a token
never holds parts of two words, and a prompt has at least as many tokens as words.  White space counts as
nothing, and a word without a space in it as one token per `LONGEST` bytes: so runs of anything, which
tokenizers have long tokens for, are no trap.  `docs/context.md` has the measurement.  The bound counts from
the first request on, until an answer's `usage` speaks against it (`WordBound`).

The counterpart is `web/context.py`, which refuses what does not fit.
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from dmap.config import Config, ConfigProblem
from dmap.extras import how

LONGEST = 128
"""Bytes of the longest token of letters and digits in the vocabularies measured (junk of doubled UTF-8)."""
ENOUGH = 64
"""Answers that bear the bound out, after which no more are looked at."""
LEAST = 64
"""Words of a prompt that bears it out: in shorter ones the chat template weighs too much."""

_SPACE = b" \t\n\r\x0b\f"
_LETTERS = frozenset(f"{string.ascii_letters}{string.digits}".encode()) | frozenset(range(0x80, 0x100))
_MARKS = bytes(b"x"[0] if byte in _LETTERS else b" "[0] for byte in range(256))
_NOTHING = bytes(byte for byte in range(256) if byte not in _LETTERS and byte not in _SPACE)
_RUN = b"x" * LONGEST


def units(texts: Sequence[str]) -> int:
    """Return how many tokens *texts* have at least: their words, and more for words of great length."""
    return sum(map(_units, texts))


def _units(text: str) -> int:
    """Punctuation counts as nothing: some vocabularies join it across line ends, as in `;` LF LF `/`."""
    if not text.isascii():
        text = " ".join(text.split())
    marks = text.encode("utf-8", "replace").translate(_MARKS, _NOTHING)
    return max(marks.count(b" x") + marks.startswith(b"x"), marks.count(_RUN))


@dataclass(slots=True)
class WordBound:
    """
    Whether the prompts of a model have at least as many tokens as `units`: by most tokenizers they do.

    *held* answers have borne it out; one that is *broken* switches the bound off until dmap restarts.
    Tokenizers that join words are SuperBPE's, and SentencePiece's without `split_by_whitespace`.
    """

    held: int = 0
    broken: bool = False

    @property
    def settled(self) -> bool:
        """Whether no more answers have to be looked at."""
        return self.broken or self.held >= ENOUGH

    def see(self, least: int, tokens: int) -> None:
        """Compare the *least* units of a prompt that its server read whole with the *tokens* it counted."""
        if tokens < least:
            self.broken = True
        elif least >= LEAST:
            self.held += 1

    def at_least(self, count: int) -> int:
        """Return how many tokens *count* units have at least; 0 where that is not known."""
        return 0 if self.broken else count


class TokenCounter:
    """
    Counts by the tokenizer file at *path*, a `tokenizer.json`.

    Raises whatever `tokenizers` does, which is no narrower than Exception, when the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self.stamp = _stamp(path)
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()  # a file may carry what its model was trained with
        self._tokenizer.no_padding()

    def count(self, texts: Sequence[str]) -> int:
        """
        Count the tokens of *texts*, some 2 MB a second; other threads run meanwhile.

        That is why it is `encode_batch_fast`: `encode` of tokenizers 0.23 holds the interpreter's lock.
        """
        encode = self._tokenizer.encode_batch_fast
        return sum(len(encode([text], add_special_tokens=False)[0]) for text in texts)


def counters(
    config: Config, before: Mapping[Path, TokenCounter] = MappingProxyType({})
) -> dict[Path, TokenCounter]:
    """
    Read the tokenizer files of *config*; return what counts by each of them.

    Of those that were read *before*, a file that has not changed is not read again.  Raises `ConfigProblem`
    for every file that cannot be read, and when the package for it is missing.
    """
    read = {counter.stamp: counter for counter in before.values()}
    found: dict[Path, TokenCounter] = {}
    problems = []
    for name, model in config.models.items():
        if model.tokenizer is None:
            continue
        try:
            known = found.get(model.tokenizer) or read.get(_stamp(model.tokenizer))
            found[model.tokenizer] = known or TokenCounter(model.tokenizer)
        except OSError as exc:
            reason = str(exc.strerror or exc).lower()
            problems.append(f"models.{name}.tokenizer: {model.tokenizer} cannot be read: {reason}")
        except ImportError:
            problems.append(f"models.{name}.tokenizer: takes the package tokenizers; {how('tokenizer')}")
        except Exception as exc:
            problems.append(f"models.{name}.tokenizer: {model.tokenizer} cannot be read: {exc}")
    if problems:
        raise ConfigProblem(problems)
    return found


def _stamp(path: Path) -> tuple[Path, int, int]:
    """Return what changes when another file takes the place of *path*."""
    stat = path.stat()
    return path, stat.st_ino, stat.st_mtime_ns
