"""What is particular about models: the sections `defaults` and `models`."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dmap.sections.section import Section
from dmap.sections.types import Count, File, Guarded, Integer, Name, Number, Seconds, Size, several
from dmap.wire.parameters import BOUNDS


def snake(name: str) -> str:
    """Return *name*, perhaps in camelCase, as `snake_case`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


def in_snake(values: Any, others: dict[str, str]) -> Any:
    """Take keys in camelCase too, and *others* for what they mean; one key in two spellings is an error."""
    if not isinstance(values, dict):
        return values
    found: dict[Any, Any] = {}
    for name, value in values.items():
        plain = snake(name) if isinstance(name, str) else name
        plain = others.get(plain, plain)
        if plain in found:
            raise ValueError(f"{name} says the same as another key here")
        found[plain] = value
    return found


class Defaults(Section):
    """Parameters injected where a request has none of its own; keys may also be in camelCase."""

    temperature: Annotated[Number | None, Field(**BOUNDS["temperature"])] = None
    top_p: Annotated[Number | None, Field(**BOUNDS["top_p"])] = None
    top_k: Annotated[Integer | None, Field(**BOUNDS["top_k"])] = None
    min_p: Annotated[Number | None, Field(**BOUNDS["min_p"])] = None
    max_tokens: Annotated[Integer | None, Field(**BOUNDS["max_tokens"])] = None
    stop: Annotated[tuple[str, ...], BeforeValidator(several)] | None = None
    seed: Integer | None = None
    repeat_penalty: Annotated[Number | None, Field(**BOUNDS["repeat_penalty"])] = None
    presence_penalty: Annotated[Number | None, Field(**BOUNDS["presence_penalty"])] = None
    frequency_penalty: Annotated[Number | None, Field(**BOUNDS["frequency_penalty"])] = None
    reasoning_effort: str | None = None
    stream: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, values: Any) -> Any:
        return in_snake(values, SAME_PARAMETERS)


def _share(value: Any) -> Any:
    """Read a part of the layers, if it is given; YAML takes a bare `off` for false."""
    if value is None:
        return None
    if value is False or value in ("off", "max"):
        return value or "off"
    try:
        share = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError("write off, max, or a share from 0 to 1 (or ratio and layers)")
    return share


SAME_OPTIONS = {"offload_kv_cache": "offload_kv_cache_to_gpu"}
SAME_PARAMETERS = {
    "stop_strings": "stop",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
}
"""Other words for options of a load, and for parameters, with ours."""


def _strippable(name: str) -> str:
    """Read a field's name in camelCase, too."""
    name = snake(name)
    if not name or name == "model":
        raise ValueError("not a field that a request can do without")
    return name


Parameter = Annotated[str, AfterValidator(_strippable)]


class Load(Section):
    """
    How a model is loaded; keys may also be in camelCase.

    The section of each kind knows which of them its servers take (`BackendSection.refuses`).
    """

    context_length: Integer | None = Field(default=None, ge=128)
    flash_attention: bool | None = None
    eval_batch_size: Count | None = None
    num_experts: Count | None = None
    offload_kv_cache_to_gpu: bool | None = None
    gpu: Annotated[Literal["off", "max"] | float | None, BeforeValidator(_share)] = None
    gpu_layers: Integer | None = Field(default=None, ge=0)
    cpu_threads: Count | None = None
    rope_frequency_base: Number | None = Field(default=None, ge=0)
    rope_frequency_scale: Number | None = Field(default=None, ge=0)
    parallel: Count | None = None
    ttl_s: Count | None = None
    identifier: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/@-]{0,127}$")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _spelled(cls, values: Any) -> Any:
        """Take LM Studio's own `gpu: {ratio, layers}` apart, too."""
        values = in_snake(values, SAME_OPTIONS)
        gpu = values.get("gpu") if isinstance(values, dict) else None
        if not isinstance(gpu, dict):
            return values
        if not gpu or gpu.keys() - {"ratio", "layers"}:
            return values  # the problem is then reported for `gpu`, beside all others
        parts = {"gpu": gpu.get("ratio"), "gpu_layers": gpu.get("layers")}
        return values | {name: value for name, value in parts.items() if value is not None or name == "gpu"}


class ModelSection(Section):
    """
    What is particular about one model.

    Of a client's request *strip* takes fields out, by any of their spellings; *force* replaces parameters, or
    puts them in; *defaults* fill in what is then missing, also in place of what was stripped.
    """

    aliases: tuple[str, ...] = ()
    backend: Name | None = None
    defaults: Defaults = Defaults()
    load: Load = Load()
    memory: Size | None = None
    parallel: Count | None = None
    pin: bool = False
    ttl_s: Seconds | None = None
    force: Defaults = Defaults()
    strip: tuple[Parameter, ...] = ()
    tokenizer: File | None = None
    permit: tuple[Guarded, ...] = ()
