"""The section of the embedded engine."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from dmap.backends.gguf.tree import Bounds, Tree
from dmap.backends.sections import RunningSection
from dmap.process import clean_environment
from dmap.sections.command import Value, Variable
from dmap.sections.types import Count, File, Integer

COUNTED = 20_000
"""Entries of folders that are looked at for a mere count: some 20 ms."""

_OPTIONS = frozenset(
    (
        "context_length",
        "cpu_threads",
        "eval_batch_size",
        "flash_attention",
        "gpu",
        "gpu_layers",
        "offload_kv_cache_to_gpu",
        "rope_frequency_base",
        "rope_frequency_scale",
    )
)
"""The options of a load that `engine` takes."""


class GGUFSection(RunningSection):
    """
    The embedded engine: a directory of GGUF files, each served by a llama.cpp child process.

    *env* is put into their environment, which is dmap's own otherwise, but for secrets.
    """

    takes_names: ClassVar[bool] = False

    kind: Literal["gguf"]
    path: File
    parallel: Count = 4
    context_length: Integer = Field(default=4096, ge=128)
    threads: Count | None = None
    env: dict[Variable, Value] = Field(default={}, repr=False)

    @field_validator("path")
    @classmethod
    def _directory(cls, path: Path) -> Path:
        if not os.path.isdir(path):
            raise ValueError(f"{path} is not a directory, or cannot be looked at")
        return path

    def environment(self) -> dict[str, str]:
        """Return the environment of a child, which may name the GPUs that it sees."""
        return {**clean_environment(), **self.visible, **self.env}

    def refuses(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Refuse what the engine has no word for, and a share of the layers, which it does not know."""
        unknown = {name: "the engine cannot be told this" for name in options if name not in _OPTIONS}
        if options.get("gpu") in (None, "off", "max", 0, 1):
            return unknown
        return unknown | {"gpu": "the engine takes off or max only; give a number of layers as gpu_layers"}

    def counted(self) -> int:
        """Count the files, of a large tree not all: each is a model, named in the configuration or not."""
        try:
            return len(Tree(self.path, Bounds(entries=COUNTED)).look().files)
        except OSError:
            return 0
