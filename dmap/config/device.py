"""The section of a device: what models compete for, and how its queue is run."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr

from dmap.sections.section import Section
from dmap.sections.types import Count, Integer, Number, Seconds, Size


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("a model is named twice")
    return names


def _several(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) < 2:
        raise ValueError("name two models or more that fit together; one fits by itself")
    return names


def _gpu(value: Any) -> Any:
    """Take the number of a GPU, its UUID, or the name that the kernel has for a card."""
    if isinstance(value, bool) or not _GPU.fullmatch(str(value)):
        raise ValueError("not a GPU; write its number as nvidia-smi has it, its UUID, or card0 for AMD")
    return int(value) if str(value).isdecimal() else value


def _listed(value: Any) -> Any:
    """Take one GPU for a list of one."""
    return (value,) if isinstance(value, int | str) else value


def _apart(gpus: tuple[int | str, ...]) -> tuple[int | str, ...]:
    if len(set(gpus)) < len(gpus):
        raise ValueError("a GPU is there twice")
    return gpus


_GPU = re.compile(r"[0-9]{1,3}|card[0-9]{1,3}|(?:GPU|MIG)-[0-9A-Za-z/-]{4,90}")

GPU = Annotated[int | str, BeforeValidator(_gpu)]
Models = Annotated[tuple[str, ...], AfterValidator(_distinct)]


class Device(Section):
    """
    One memory that models compete for, and how its queue is run.

    Models that are on one of the lists of *together* fit beside one another, whatever the other limits say.
    Those of *preload* are loaded at the start, and again when nobody has asked for anything for *return_s*.
    How much of the memory of *gpus* is used is measured.

    As `Config.device` returns it, it is *held* in part by servers, and *memory* is what they leave.
    """

    _held: Mapping[str, int | None] = PrivateAttr(default_factory=dict)
    memory: Size | None = None
    gpus: Annotated[tuple[GPU, ...], BeforeValidator(_listed), AfterValidator(_apart)] = ()
    max_models: Count = 1
    embeddings: Integer = Field(default=1, ge=0)
    together: tuple[Annotated[Models, AfterValidator(_several)], ...] = ()
    preload: Models = ()
    return_s: Seconds | None = None
    cooldown_s: Number = Field(default=3, ge=0)
    patience_s: Seconds = 60
    residency: Number = Field(default=4, ge=0)
    wait_s: Seconds = 300
    lease_s: Seconds = 1800
    queue: Count = 1024
    adopt: Literal["evict", "respect"] = "evict"
    backend_gone_s: Seconds = 60

    def lists_of(self, is_meant: Callable[[str], bool]) -> frozenset[str]:
        """Return those lists of *together* on which a name *is_meant*, each as its names in one text."""
        return frozenset(", ".join(names) for names in self.together if any(map(is_meant, names)))

    @property
    def held(self) -> Mapping[str, int | None]:
        """The servers that dmap cannot unload, with the bytes that each holds; None where nobody said."""
        return self._held

    def beside(self, held: Mapping[str, int | None]) -> "Device":
        """Return it as it is beside the servers of *held*."""
        taken = sum(filter(None, held.values()))
        left = self.model_copy(update={"memory": self.memory - taken if self.memory else None})
        left._held = held
        return left
