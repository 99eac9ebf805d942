"""How llama.cpp is made slow without work, which is `pace.c`: its build, its settings, and what it noted."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("pace.c")


class Load(NamedTuple):
    """One load that came to its end: when its engine was started, and when the model was there."""

    began: float
    ended: float


@dataclass(frozen=True)
class Pace:
    """A load takes *load_s* and each token *step_s*, in whatever engine *library* is loaded into."""

    library: Path
    load_s: float
    step_s: float

    def environment(self, log: Path) -> dict[str, str]:
        """Return the variables for a process whose engines note their loads in *log*."""
        return {
            "LD_PRELOAD": str(self.library),
            "PACE_LOAD_S": str(self.load_s),
            "PACE_STEP_S": str(self.step_s),
            "PACE_LOG": str(log),
        }


def build(folder: Path) -> Path:
    """Compile the library into *folder*, which takes a C compiler; return its path."""
    library = folder / "pace.so"
    subprocess.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def loads(log: Path) -> list[Load]:
    """Read the loads that were noted in *log*; times are those of `time.monotonic`."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [Load(*map(float, line.split())) for line in lines]
