"""
A stand-in for NVML, NVIDIA's library, below its real binding: GPUs as a file in JSON describes them.

The real `pynvml` calls it as it would the shared library, by ctypes and with the structures of its header; so
all but the driver is real.  `standin/pynvml.py` puts it into a process that is started with that folder on
its path, where `DMAP_TEST_NVML` names the file.  The file is read at each call, so a test can change it.

    {"gpus": [{"uuid": "GPU-1", "name": "...", "total": 24, "reserved": 1, "used": 5,
               "processes": {"1234": 3}, "graphics": {}, "children": 0}],
     "fails": {"nvmlInitWithFlags": 9}, "lacks": ["nvmlDeviceGetMemoryInfo_v2"], "hangs": ["..."]}

*used* is what processes have, without what is *reserved* for the driver.  With *children* each child of this
process has so many times its memory on the GPU, beyond *used*.
"""

import contextlib
import ctypes
import functools
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND, INSUFFICIENT_SIZE = 1, 2, 3, 6, 7
UNKNOWN_BYTES = 2**64 - 1
"""What stands for memory that is not told (`NVML_VALUE_NOT_AVAILABLE`)."""
FOLDER = Path(__file__).parent / "standin"
VARIABLE = "DMAP_TEST_NVML"
_PROCESSES = {
    "nvmlDeviceGetComputeRunningProcesses_v3": "processes",
    "nvmlDeviceGetGraphicsRunningProcesses_v3": "graphics",
}


def gpu(used: int = 0, total: int = 24 * 2**30, **more: Any) -> dict[str, Any]:
    """Describe a GPU."""
    uuid = "GPU-4c9e1a52-0a7c-4f0e-9d0f-6a5a1d9b7a01"
    return {"uuid": uuid, "name": "NVIDIA Test", "total": total, "reserved": 0, "used": used, **more}


def described(folder: Path, *gpus: dict[str, Any], **more: Any) -> dict[str, str]:
    """Describe GPUs in a file in *folder*, each time as a whole; return what a process needs to see them."""
    file = folder / "nvml.json"
    new = file.with_suffix(".new")
    new.write_text(json.dumps({"gpus": gpus, **more}))
    new.replace(file)
    return {VARIABLE: str(file), "PYTHONPATH": f"{FOLDER}{os.pathsep}{FOLDER.parent.parent}"}


class Library:
    """What the binding takes for the loaded `libnvidia-ml.so.1`; the world is what *file* has."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._opened = 0
        self._handles = dict[int, int]()
        self._kept: list[Any] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in self._world().get("lacks", ()) or not hasattr(type(self), f"do_{name}"):
            raise AttributeError(name)
        return functools.partial(self._call, name)  # the binding sets attributes of it

    def _world(self) -> Mapping[str, Any]:
        return json.loads(self._file.read_text())  # type: ignore[no-any-return]

    def _call(self, name: str, *arguments: Any) -> Any:
        while name in self._world().get("hangs", ()):
            time.sleep(0.01)
        fails = self._world().get("fails", {})
        if name in fails:
            return fails[name]
        if not self._opened and name not in ("nvmlInitWithFlags", "nvmlErrorString"):
            return UNINITIALIZED
        return getattr(self, f"do_{name}")(*arguments) or 0

    def _gpu(self, handle: Any) -> dict[str, Any]:
        return self._world()["gpus"][self._handles[ctypes.addressof(handle.contents)]]  # type: ignore[no-any-return]

    def _hand_out(self, at: int, into: Any) -> None:
        kept = type(into._obj)._type_()
        self._kept.append(kept)
        self._handles[ctypes.addressof(kept)] = at
        into._obj.contents = kept

    def do_nvmlErrorString(self, code: int) -> bytes:
        """Name an error that the binding has no name for."""
        return b"Error %d" % code

    def do_nvmlInitWithFlags(self, flags: int) -> None:
        """Open the library once more."""
        self._opened += 1

    def do_nvmlShutdown(self) -> None:
        """Close it once."""
        self._opened -= 1

    def do_nvmlDeviceGetCount_v2(self, into: Any) -> None:
        """Count the GPUs."""
        into._obj.value = len(self._world()["gpus"])

    def do_nvmlDeviceGetHandleByIndex_v2(self, index: Any, into: Any) -> int | None:
        """Find a GPU by its number."""
        if index.value >= len(self._world()["gpus"]):
            return INVALID_ARGUMENT
        return self._hand_out(index.value, into)

    def do_nvmlDeviceGetHandleByUUID(self, uuid: Any, into: Any) -> int | None:
        """Find a GPU by its UUID."""
        for at, each in enumerate(self._world()["gpus"]):
            if each["uuid"].encode() == uuid.value:
                return self._hand_out(at, into)
        return NOT_FOUND

    def do_nvmlDeviceGetName(self, handle: Any, into: Any, size: Any) -> None:
        """Name a GPU."""
        into.value = self._gpu(handle)["name"].encode()

    def do_nvmlDeviceGetMemoryInfo(self, handle: Any, into: Any) -> None:
        """Tell the memory; what is reserved counts as used."""
        gpu = self._gpu(handle)
        into._obj.total = gpu["total"]
        into._obj.used = self._used(gpu) + gpu["reserved"]
        into._obj.free = into._obj.total - into._obj.used

    def do_nvmlDeviceGetMemoryInfo_v2(self, handle: Any, into: Any) -> None:
        """Tell the memory, and apart what is reserved."""
        gpu = self._gpu(handle)
        into._obj.total, into._obj.reserved, into._obj.used = gpu["total"], gpu["reserved"], self._used(gpu)
        into._obj.free = into._obj.total - into._obj.used - gpu["reserved"]

    def do_nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any, count: Any, into: Any) -> int:
        """List processes that compute."""
        gpu = self._gpu(handle)
        return self._list({**gpu.get("processes", {}), **self._children(gpu)}, count, into)

    def do_nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle: Any, count: Any, into: Any) -> int:
        """List processes that draw."""
        return self._list(self._gpu(handle).get("graphics", {}), count, into)

    def _used(self, gpu: Mapping[str, Any]) -> int:
        return gpu["used"] + sum(self._children(gpu).values())  # type: ignore[no-any-return]

    @staticmethod
    def _children(gpu: Mapping[str, Any]) -> dict[str, int]:
        times = gpu.get("children", 0)
        found = dict[str, int]()
        for each in psutil.Process().children() if times else ():
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                found[str(each.pid)] = times * each.memory_info().rss
        return found

    @staticmethod
    def _list(processes: Mapping[str, int | None], count: Any, into: Any) -> int:
        room, count._obj.value = count._obj.value, len(processes)
        if room < len(processes):
            return INSUFFICIENT_SIZE
        for at, (pid, has) in enumerate(processes.items()):
            into[at].pid, into[at].usedGpuMemory = int(pid), UNKNOWN_BYTES if has is None else has
        return 0
