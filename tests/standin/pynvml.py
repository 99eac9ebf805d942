"""The real binding of NVML over a stand-in for the library; see `tests/nvml.py`."""

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

_HERE = str(Path(__file__).parent)
_real = PathFinder.find_spec("pynvml", [path for path in sys.path if path != _HERE])
assert _real is not None and _real.origin is not None, "nvidia-ml-py is installed"
exec(compile(Path(_real.origin).read_text(), _real.origin, "exec"), globals())  # noqa: S102

from tests.nvml import VARIABLE, Library  # noqa: E402

nvmlLib = Library(Path(os.environ[VARIABLE]))
