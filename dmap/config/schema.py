"""What may stand in the file: frozen sections, and what must hold between them.  Knows no YAML."""

import ipaddress
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dmap.config.types import (
    Count,
    Integer,
    Name,
    Network,
    Number,
    Seconds,
    Sha256,
    Size,
    Token,
    several,
    url,
)


class ConfigProblem(Exception):
    """The file cannot be used; *problems* lists why, each line with its path in the file."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Section(BaseModel):
    """One mapping of the file: closed and frozen.  Text may stand for a number: so the environment has it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Listen(Section):
    """Where dmap listens; beyond loopback only with keys, an allowlist or `access.open`."""

    host: str = "127.0.0.1"
    port: Integer = Field(default=8000, ge=0, le=65535)


class Key(Section):
    """One API key, known by its SHA-256, with what it may use."""

    name: Name
    sha256: Sha256
    scopes: tuple[Literal["inference", "debug", "admin"], ...] = ("inference",)
    models: tuple[str, ...] = ("*",)


class Access(Section):
    """Who may ask."""

    open: bool = False
    allow: tuple[Network, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    keys: tuple[Key, ...] = ()

    @field_validator("keys")
    @classmethod
    def _distinct(cls, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        for field in ("name", "sha256"):
            values = [getattr(key, field) for key in keys]
            if len(set(values)) < len(values):
                raise ValueError(f"two keys have the same {field}")
        return keys


class Device(Section):
    """One memory that models compete for, and how its queue is run."""

    memory: Size | None = None
    max_models: Count = 1
    embeddings: Integer = Field(default=1, ge=0)
    cooldown_s: Number = Field(default=3, ge=0)
    patience_s: Seconds = 60
    residency: Number = Field(default=4, ge=0)
    wait_s: Seconds = 300
    lease_s: Seconds = 1800
    queue: Count = 1024


class OpenAIBackend(Section):
    """A server that speaks OpenAI's API and cannot switch models."""

    kind: Literal["openai"]
    url: Annotated[str, AfterValidator(url)]
    api_key: Token | None = Field(default=None, repr=False)
    parallel: Count | None = None
    queue: Count = 1024
    wait_s: Seconds = 300
    lease_s: Seconds = 1800


class GGUFBackend(Section):
    """The embedded engine: a directory of GGUF files, each served by a llama.cpp child process."""

    kind: Literal["gguf"]
    path: Path
    device: Name
    parallel: Count = 4
    context_length: Integer = Field(default=4096, ge=128)
    threads: Count | None = None
    load_s: Seconds = 600

    @field_validator("path")
    @classmethod
    def _directory(cls, path: Path) -> Path:
        try:
            found = path.is_dir()
        except OSError as exc:
            raise ValueError(f"{path} cannot be looked at: {exc.strerror}") from exc
        if not found:
            raise ValueError(f"{path} is not a directory")
        return path


class LMStudioBackend(Section):
    """An LM Studio of 0.4.0 or later, whose models dmap loads and unloads over its REST API."""

    kind: Literal["lmstudio"]
    url: Annotated[str, AfterValidator(url)]
    device: Name
    api_key: Token | None = Field(default=None, repr=False)
    parallel: Count | None = None
    load_s: Seconds = 600
    lms: Path | None = None

    @field_validator("lms")
    @classmethod
    def _command(cls, lms: Path | None, so_far: ValidationInfo) -> Path | None:
        """Refuse what is no program, and a server it cannot be sent to: it takes a host and a port."""
        if lms is None:
            return None
        if not (os.path.isfile(lms) and os.access(lms, os.X_OK)):
            raise ValueError(f"{lms} is not a file that can be run")
        parts = urlsplit(so_far.data.get("url", "http://h"))
        if parts.scheme != "http" or ":" in (parts.hostname or "") or parts.path not in ("", "/v1"):
            raise ValueError("lms reaches only http://HOST:PORT, without a path; HOST no IPv6 address")
        return lms


SWITCHING = (GGUFBackend, LMStudioBackend)
"""The kinds whose residents dmap decides; only these have a device."""

BackendConfig = Annotated[OpenAIBackend | GGUFBackend | LMStudioBackend, Field(discriminator="kind")]


class Defaults(Section):
    """Parameters injected where a request has none of its own."""

    temperature: Number | None = Field(default=None, ge=0, le=2)
    top_p: Number | None = Field(default=None, ge=0, le=1)
    top_k: Integer | None = Field(default=None, ge=0)
    min_p: Number | None = Field(default=None, ge=0, le=1)
    max_tokens: Count | None = None
    stop: Annotated[tuple[str, ...], BeforeValidator(several)] | None = None
    seed: Integer | None = None
    repeat_penalty: Number | None = Field(default=None, ge=0)
    presence_penalty: Number | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(default=None, ge=-2, le=2)
    reasoning_effort: str | None = None

    def given(self) -> dict[str, Any]:
        """Return the parameters that are set."""
        return self.model_dump(exclude_none=True)


def _share(value: Any) -> Any:
    """Read a part of the layers; YAML takes a bare `off` for false."""
    if value is False or value in ("off", "max"):
        return value or "off"
    try:
        share = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError("write off, max, or a share from 0 to 1")
    return share


class Load(Section):
    """How a model is loaded, for backends that can be told; the last four only LM Studio's `lms` can."""

    context_length: Integer | None = Field(default=None, ge=128)
    flash_attention: bool | None = None
    eval_batch_size: Count | None = None
    num_experts: Count | None = None
    offload_kv_cache_to_gpu: bool | None = None
    gpu: Annotated[Literal["off", "max"] | float | None, BeforeValidator(_share)] = None
    parallel: Count | None = None
    ttl_s: Count | None = None
    identifier: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/@-]{0,127}$")] | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that are set."""
        return self.model_dump(exclude_none=True)


BY_LMS = ("gpu", "parallel", "ttl_s", "identifier")
"""The load options that only the `lms` command of LM Studio takes."""


class Model(Section):
    """What is particular about one model."""

    aliases: tuple[str, ...] = ()
    backend: Name | None = None
    defaults: Defaults = Defaults()
    load: Load = Load()
    memory: Size | None = None
    parallel: Count | None = None
    pin: bool = False
    permit: tuple[
        Literal["draft_model", "context_length", "integrations", "keep_alive", "options", "image_url"], ...
    ] = ()


class Server(Section):
    """The bounds of the proxy itself."""

    max_body: Size = 64 * 2**20
    bodies: Size = 2**30
    buffer: Size = 256 * 2**10
    body_s: Seconds = 60
    heartbeat_s: Seconds = 15
    client_stall_s: Seconds = 60
    connect_s: Seconds = 5
    first_byte_s: Seconds = 300
    idle_s: Seconds = 120
    shutdown_s: Seconds = 20


class Config(Section):
    """The whole file."""

    listen: Listen = Listen()
    access: Access = Access()
    devices: dict[Name, Device] = {}
    backends: dict[Name, BackendConfig] = Field(min_length=1)
    defaults: Defaults = Defaults()
    models: dict[str, Model] = {}
    allow_models: tuple[str, ...] = ("*",)
    server: Server = Server()

    @model_validator(mode="before")
    @classmethod
    def _sections(cls, values: Any) -> Any:
        """Take a section whose every line is commented out for an empty one."""
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _whole(self, _: ValidationInfo) -> "Config":
        problems = [
            *self._exposed(),
            *self._dangling(),
            *self._doubles(),
            *self._beyond_rest(),
            *self._impossible(),
        ]
        if problems:
            raise ConfigProblem(problems)
        return self

    def _exposed(self) -> Iterator[str]:
        access = self.access
        if not is_loopback(self.listen.host) and not (access.keys or access.allow or access.open):
            yield (
                f"listen.host: {self.listen.host} is open to others; "
                "set access.keys or access.allow (or access.open: true)"
            )

    def _dangling(self) -> Iterator[str]:
        for name, backend in self.backends.items():
            if isinstance(backend, SWITCHING) and backend.device not in self.devices:
                yield f"backends.{name}.device: there is no device {backend.device!r} under devices"
        for name, model in self.models.items():
            if model.backend is not None and model.backend not in self.backends:
                yield f"models.{name}.backend: there is no backend {model.backend!r} under backends"

    def _beyond_rest(self) -> Iterator[str]:
        """Find what only `lms` can do where there is none, or where it would have to do more than it can."""
        for name, model in self.models.items():
            given = model.load.given()
            by_lms = [option for option in BY_LMS if option in given]
            if not by_lms:
                continue
            if not any(isinstance(one, LMStudioBackend) and one.lms for one in self._homes(model)):
                yield f"models.{name}.load.{by_lms[0]}: needs a backend of kind lmstudio with `lms` set"
            for option in sorted(given.keys() - {*BY_LMS, "context_length"}):
                yield f"models.{name}.load.{option}: cannot be given beside {by_lms[0]}, which goes by lms"

    def _homes(self, model: Model) -> list[OpenAIBackend | GGUFBackend | LMStudioBackend]:
        named = self.backends.get(model.backend or "")
        return [named] if named is not None else list(self.backends.values())

    def _doubles(self) -> Iterator[str]:
        owner = {name: name for name in self.models}
        for name, model in self.models.items():
            for alias in model.aliases:
                if owner.setdefault(alias, name) != name:
                    yield f"models.{name}.aliases: {alias!r} already means {owner[alias]!r}"

    def device_of(self, model: Model) -> str | None:
        """Return the device that *model* is on, if the file tells."""
        placed = {name: b.device for name, b in self.backends.items() if isinstance(b, SWITCHING)}
        if model.backend is None and len(placed) == len(self.backends) == 1:
            return next(iter(placed.values()))
        return placed.get(model.backend or "")

    def _impossible(self) -> Iterator[str]:
        """Find what the arbiter could never do: it would refuse one request after the other for it."""
        pinned: Counter[str] = Counter()
        for name, model in self.models.items():
            device = self.device_of(model)
            if device in self.devices:
                pinned[device] += model.pin
                memory = self.devices[device].memory
                if model.memory is not None and memory is not None and model.memory > memory:
                    yield f"models.{name}.memory: more than the memory of device {device!r}"
            elif model.pin:
                yield f"models.{name}.pin: name a backend whose models dmap loads"
        for name, count in pinned.items():
            if count > self.devices[name].max_models:
                yield f"devices.{name}.max_models: less than the {count} models that are pinned there"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
