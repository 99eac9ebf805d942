"""
How much of a file the system has in its memory.  It blocks for microseconds, and reads nothing.

Linux tells it of files that are ours or that we may write; of others it says that all is there (mincore(2)).
"""

import ctypes
import mmap
import os
from pathlib import Path

SAMPLES = 256
"""So many pages are looked at, evenly spread; that tells nine tenths from eight."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_FAILED = ctypes.c_void_p(-1).value


def share_in_memory(path: Path) -> float:
    """Return which share of the file at *path* is in memory; 0 if that cannot be told."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0.0
    try:
        size = os.fstat(file).st_size
        at = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0) if size else None
    finally:
        os.close(file)
    if at is None or at == _FAILED:
        return 0.0
    try:
        return _share(at, -(-size // mmap.PAGESIZE))
    finally:
        _libc.munmap(at, size)


def _share(at: int, pages: int) -> float:
    """Return the same for as many *pages* from the address *at* on."""
    count, found, page = min(pages, SAMPLES), 0, ctypes.create_string_buffer(1)
    for number in range(count):
        if _libc.mincore(at + pages * number // count * mmap.PAGESIZE, 1, page) == 0:
            found += page.raw[0] & 1
    return found / count
