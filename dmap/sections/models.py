"""What is particular about models: the sections `defaults` and `models`."""

import re
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    AliasPath,
    BeforeValidator,
    ConfigDict,
    Field,
)

from dmap.sections.command import PLACES, Text, Told, UrlPath, Variable, Words, fill
from dmap.sections.section import Section
from dmap.sections.types import (
    Count,
    File,
    Guarded,
    Integer,
    Name,
    Number,
    Seconds,
    Size,
    check_url,
    like,
    several,
)
from dmap.wire.parameters import BOUNDS, camel
from dmap.wire.values import LONGEST_NAME

_OTHERS = {
    "max_tokens": ("max_completion_tokens", "max_output_tokens"),
    "stop": ("stop_strings",),
    "offload_kv_cache_to_gpu": ("offload_kv_cache",),
}
"""Other words for parameters and for options of a load, by ours."""


def _spellings(name: str) -> AliasChoices:
    names = (name, *_OTHERS.get(name, ()))
    return AliasChoices(*names, *map(camel, names))


class Spelled(Section):
    """
    A section whose keys may also be in camelCase, and some in other words.

    One key in two spellings is an error.  A problem is told at the key as it was written.
    """

    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=_spellings))


class Defaults(Spelled):
    """Parameters injected where a request has none of its own."""

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
    chat_template_kwargs: dict[str, Any] | None = None
    stream: bool | None = None


def _share(value: Any) -> Any:
    """Read a part of the layers, also out of `{ratio, layers}`; YAML takes a bare `off` for false."""
    if isinstance(value, dict) and value and value.keys() <= {"ratio", "layers"}:
        value = value.get("ratio")
    if value is None or value in ("off", "max"):
        return value
    if value is False:
        return "off"
    with suppress(ArithmeticError, TypeError, ValueError):
        if value is not True and 0 <= (share := float(value)) <= 1:
            return share
    raise ValueError("write off, max, or a share from 0 to 1 (or ratio and layers)")


def _strippable(name: str) -> str:
    """Read a field's name in camelCase, too."""
    name = re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()
    if not name or name == "model":
        raise ValueError("not a field that a request can do without")
    return name


Parameter = Annotated[str, AfterValidator(_strippable)]
_GPU_LAYERS = AliasChoices("gpu_layers", "gpuLayers", AliasPath("gpu", "layers"))


_NO_IDENTIFIER = "not an identifier: up to 128 letters, digits and . _ / @ -, first a letter or a digit"
Identifier = Annotated[str, like(r"[A-Za-z0-9][A-Za-z0-9._/@-]{0,127}", _NO_IDENTIFIER)]


class Load(Spelled):
    """
    How a model is loaded.

    The section of each kind knows which of them its servers take (`BackendSection.refuses`).
    """

    context_length: Integer | None = Field(default=None, ge=128)
    flash_attention: bool | None = None
    eval_batch_size: Count | None = None
    num_experts: Count | None = None
    offload_kv_cache_to_gpu: bool | None = None
    gpu: Annotated[Literal["off", "max"] | float | None, BeforeValidator(_share)] = None
    gpu_layers: Integer | None = Field(default=None, ge=0, validation_alias=_GPU_LAYERS)
    cpu_threads: Count | None = None
    rope_frequency_base: Number | None = Field(default=None, ge=0)
    rope_frequency_scale: Number | None = Field(default=None, ge=0)
    parallel: Count | None = None
    ttl_s: Count | None = None
    identifier: Identifier | None = None


def _template(value: str) -> str:
    """Check a URL as it will be once its places are filled."""
    check_url(fill(value, dict.fromkeys(PLACES, "1")))
    return value


_NAMES = Defaults.model_fields.keys() | Load.model_fields.keys()
FURTHER = frozenset(word for name in _NAMES for word in _spellings(name).choices) - _NAMES
"""All spellings of parameters and options of a load but our own."""


def _base(name: str) -> str:
    if not name.strip() or is_glob(name):
        raise ValueError("names no single model")
    return name


def _alias(name: str) -> str:
    if not name.strip():
        raise ValueError("an empty name means no model")
    if name != ANY and is_glob(name):
        raise ValueError(f"a glob fits no names here; only '{ANY}' alone takes those that nobody knows")
    return name


def is_glob(name: str) -> bool:
    """Tell whether *name* stands for many models; `[` alone makes no glob, for names of files have it."""
    return "*" in name or "?" in name


ANY = "*"
"""The alias of the one model that takes names which nobody knows."""
Alias = Annotated[str, AfterValidator(_alias)]
_ADDED_UP = ("strip", "permit")
ON = "@"
"""Between the name of a backend and the device it is on, where it is on several; no name has it."""


class ModelSection(Section):
    """
    What is particular about one model.

    *cmd* runs its server, which answers at *url*, is ready when *ready* is 200, and is ended by *stop*; *env*
    is for both commands.  Its server calls it *served_model_name*, if not by the name that it has here.

    Of a client's request *strip* takes fields out, by any of their spellings; *force* replaces parameters, or
    puts them in; *defaults* fill in what is then missing, also in place of what was stripped.

    With *of* it is no model but a variant of that one: the same resident, asked with other parameters.
    """

    of: Annotated[str, AfterValidator(_base)] | None = None
    aliases: tuple[Alias, ...] = ()
    backend: Name | None = None
    defaults: Defaults = Defaults()
    load: Load = Load()
    memory: Size | None = None
    parallel: Count | None = None
    served_model_name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)] | None = None
    pin: bool = False
    ttl_s: Seconds | None = None
    force: Defaults = Defaults()
    strip: tuple[Parameter, ...] = ()
    tokenizer: File | None = None
    permit: tuple[Guarded, ...] = ()
    cmd: Words | None = None
    stop: Words | None = None
    url: Annotated[Text, AfterValidator(_template)] | None = None
    ready: UrlPath = "/health"
    env: dict[Variable, Told] = Field(default={}, repr=False)

    def lives_on(self, backend: str) -> bool:
        """Tell whether it may be a model of *backend*."""
        return self.backend in (None, backend, backend.partition(ON)[0])

    def over(self, beneath: "ModelSection") -> "ModelSection":
        """
        Return this entry with what it does not say taken from *beneath*.

        Of sections that goes key by key; what is stripped or permitted adds up.
        """
        own = self.model_fields_set
        said = {name: _laid(name, getattr(self, name), getattr(beneath, name)) for name in own}
        return beneath.model_copy(update=said)


def _laid(name: str, value: Any, beneath: Any) -> Any:
    """Return the *value* that an entry has of the field *name*, over what is said *beneath*."""
    if isinstance(value, Section):
        return beneath.model_copy(update={each: getattr(value, each) for each in value.model_fields_set})
    return tuple(dict.fromkeys((*beneath, *value))) if name in _ADDED_UP else value
