"""
NVIDIA's GPUs by NVML, the library of their driver.  Only who measures such a GPU imports this.

It stays open between two readings, for to open it may take a second where nothing else keeps the driver
awake.  After any error it is opened anew, so a driver that comes back is found.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pynvml

from dmap.memory.usage import Unreadable, Usage, summed

_GONE = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "NVIDIA's driver is not here: no libnvidia-ml.so.1",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "NVIDIA's driver is not loaded",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not ask NVIDIA's driver; as a service, see docs/gpu.md",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "NVIDIA's driver was upgraded and is not loaded anew; restart the host"
    ),
}
"""What errors of the library as a whole mean for the owner."""

_PROCESSES = (
    pynvml.nvmlDeviceGetComputeRunningProcesses_v3,
    pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3,
    pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3,
)
"""One process may be on several of these lists, with all that it has on each."""
_Result = TypeVar("_Result")
_LACKING = (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound)


class Nvml:
    """Those *gpus* of NVIDIA's: each the number that nvidia-smi has for it, or its UUID."""

    def __init__(self, gpus: Sequence[int | str]) -> None:
        self._gpus = gpus
        self._handles: list[Any] = []
        self._is_open = False

    def names(self) -> list[str]:
        """Return what each is called, behind its number or UUID."""
        return self._each(lambda gpu, handle: f"{gpu} {pynvml.nvmlDeviceGetName(handle)}")

    def read(self) -> Usage:
        """Return what is used now of all together."""
        return summed(self._each(_usage))

    def _each(self, ask: Callable[[int | str, Any], _Result]) -> list[_Result]:
        try:
            self._open()
            return [ask(gpu, handle) for gpu, handle in zip(self._gpus, self._handles, strict=True)]
        except pynvml.NVMLError as exc:
            self._close()
            raise Unreadable(_GONE.get(exc.value, f"NVML says: {exc}")) from exc
        except Unreadable:
            self._close()
            raise

    def _open(self) -> None:
        if not self._is_open:
            pynvml.nvmlInit()
            self._is_open = True
            self._handles = [_handle(gpu) for gpu in self._gpus]

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _handle(gpu: int | str) -> Any:
    try:
        if isinstance(gpu, int):
            return pynvml.nvmlDeviceGetHandleByIndex(gpu)
        return pynvml.nvmlDeviceGetHandleByUUID(gpu)
    except (pynvml.NVMLError_InvalidArgument, pynvml.NVMLError_NotFound) as exc:
        raise Unreadable(f"there is no GPU {gpu}; there are: {_all()}") from exc


def _all() -> str:
    """Return the names of all GPUs, each behind its number."""
    handles = [pynvml.nvmlDeviceGetHandleByIndex(at) for at in range(pynvml.nvmlDeviceGetCount())]
    return (
        ", ".join(f"{at} ({pynvml.nvmlDeviceGetName(handle)})" for at, handle in enumerate(handles)) or "none"
    )


def _usage(gpu: int | str, handle: Any) -> Usage:
    try:
        total, used = _memory(handle)
    except pynvml.NVMLError_NotSupported as exc:
        raise Unreadable(f"GPU {gpu} does not tell its memory; it has none of its own, perhaps") from exc
    return Usage(total, used, _processes(handle))


def _memory(handle: Any) -> tuple[int, int]:
    """
    Return what processes can have in all, and what they have.

    The second version of the call, of driver 510, tells apart what the driver has reserved.  NVIDIA's pages
    do not agree whether that is part of what is used; what is free leaves no doubt.
    """
    try:
        said = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    except pynvml.NVMLError_FunctionNotFound:
        said = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return said.total, said.used
    total = said.total - said.reserved
    return total, total - said.free


def _processes(handle: Any) -> dict[int, int] | None:
    """Return what each process has; None where that is not told, as under WSL."""
    found = dict[int, int]()
    for ask in _PROCESSES:
        try:
            processes = ask(handle)
        except _LACKING:
            if ask is _PROCESSES[0]:
                return None
            continue
        for process in processes:
            if process.usedGpuMemory is None:
                return None
            found[process.pid] = max(found.get(process.pid, 0), process.usedGpuMemory)
    return found
