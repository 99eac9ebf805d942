"""
How much memory of its GPUs a device has, how much of it is used, and by whom.

`nvml` asks NVIDIA's library, `amd` the kernel; both may hang, so `meter` asks them beside the loop.
`balance`, which is pure, says what of it models take.  Nothing is decided here: the gate goes by it, metrics
and pages show it.
"""

from dmap.memory.balance import Balance, Foreign, Reckoned
from dmap.memory.gpus import check, reader_of
from dmap.memory.meter import Meter
from dmap.memory.survey import Finding, look_at, said, warnings_of
from dmap.memory.usage import GPUs, Unreadable, Usage

__all__ = [
    "Balance",
    "Finding",
    "Foreign",
    "GPUs",
    "Meter",
    "Reckoned",
    "Unreadable",
    "Usage",
    "check",
    "look_at",
    "reader_of",
    "said",
    "warnings_of",
]
