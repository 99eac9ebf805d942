"""
AMD's cards, by what the kernel's driver `amdgpu` tells in sysfs.

Which process has how much it does not tell there, and what else does is for root alone or knows only a part.
"""

from collections.abc import Sequence
from pathlib import Path

from dmap.memory.usage import Unreadable, Usage, summed

DRM = Path("/sys/class/drm")


class Amd:
    """Those *cards* of AMD's below *folder*, as `card0`."""

    def __init__(self, cards: Sequence[str], folder: Path = DRM) -> None:
        self._cards = cards
        self._folder = folder

    def names(self) -> list[str]:
        """Return the cards."""
        self.read()
        return list(self._cards)

    def read(self) -> Usage:
        """Return what is used now of all together (Documentation/gpu/amdgpu/driver-misc.rst)."""
        return summed(Usage(self._bytes(card, "total"), self._bytes(card, "used")) for card in self._cards)

    def _bytes(self, card: str, what: str) -> int:
        try:
            return int((self._folder / card / "device" / f"mem_info_vram_{what}").read_text())
        except FileNotFoundError as exc:
            there = sorted(path.parts[-3] for path in self._folder.glob("card*/device/mem_info_vram_total"))
            has = ", ".join(there) or "none"
            raise Unreadable(f"{card} is no card of amdgpu's in {self._folder}; there are: {has}") from exc
        except (OSError, ValueError) as exc:
            raise Unreadable(f"{card} does not tell its memory: {exc}") from exc
