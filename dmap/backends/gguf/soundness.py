"""
Whether a model's files can be loaded at all, as far as they show it themselves.  It blocks.

A model that cannot be loaded shall throw nobody out of memory, so this is looked at before a switch.  Only
what is certain counts: what this reader does not know, the engine may.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dmap.backends.gguf.file import ModelFile, Part
from dmap.backends.gguf.pairs import MOST_BYTES, Broken, never, number, read_pairs, text, unpack

ALIGNMENT = 32
MOST_TENSORS = 100_000
MOST_DIMENSIONS = 4

SIZES = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110)},
    **{22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8)},
    **{29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17)},
}
"""By type: so many numbers take so many bytes (`GGML_QUANT_SIZES` in gguf-py/gguf/constants.py)."""


class Soundness:
    """Remembers what was seen, by file version: a file that was mended is looked at anew."""

    def __init__(self) -> None:
        self._faults: dict[Path, tuple[Part, str | None]] = {}

    def fault_of(self, file: ModelFile) -> str | None:
        """
        Return why *file* cannot be loaded, None if nothing speaks against it.

        Raises FileNotFoundError if it is gone, or a part of it.
        """
        faults = (self._fault_of(part.path) for part in file.all_parts)
        return next(filter(None, faults), None)

    def has_changed(self, file: ModelFile) -> bool:
        """Tell whether *file* has changed since it was last looked at.  It does not block."""
        return any(self._faults.get(part.path, (part,))[0] != part for part in file.all_parts)

    def _fault_of(self, path: Path) -> str | None:
        now = Part.of(path)
        part, fault = self._faults.get(path, (None, None))
        if part != now:
            fault = fault_in(path, now.size)
            self._faults[path] = (now, fault)
        return fault

    def forget(self, known: set[Path]) -> None:
        """Keep nothing but what is of *known* files."""
        for path in [path for path in list(self._faults) if path not in known]:
            self._faults.pop(path, None)


def fault_in(path: Path, size: int) -> str | None:
    """Return why the file *path*, of *size* bytes, cannot be loaded; None if that does not show."""
    try:
        with path.open("rb") as file:
            needed = max(_ends(file), default=0)
    except Broken as exc:
        return f"{path.name} is no model: {exc}"
    except struct.error:
        return f"{path.name} is cut off: it ends within its header, after {size:,} bytes"
    except PermissionError as exc:
        return f"{path.name} cannot be read: {exc.strerror}"
    except (OSError, ValueError, KeyError, OverflowError):
        return None
    if needed > size:
        return f"{path.name} is cut off: it has {size:,} bytes, and its tensors need {needed:,}"
    return None


def _ends(file: BinaryIO) -> Iterator[int]:
    """Yield where each tensor ends, in bytes from the beginning of *file*."""
    found, count = read_pairs(file, never)
    alignment = found.get("general.alignment", ALIGNMENT)
    if count > MOST_TENSORS or not isinstance(alignment, int) or alignment < 1:
        return
    ends = [_end(file) for _ in range(count)]
    start = -(-file.tell() // alignment) * alignment
    yield from (start + end for end in ends)


def _end(file: BinaryIO) -> int:
    """Read what is said of one tensor; return where it ends, from the beginning of the first."""
    if file.tell() > MOST_BYTES:
        raise ValueError("a header beyond all bounds")
    text(file)
    dimensions = number(file, "I")
    if dimensions > MOST_DIMENSIONS:
        raise ValueError(f"a tensor of {dimensions} dimensions")
    shape = unpack(file, f"{dimensions}Q")
    kind, offset = unpack(file, "IQ")
    numbers, size = SIZES.get(kind, (1, 0))
    end: int = offset + math.prod(shape) // numbers * size
    return end
