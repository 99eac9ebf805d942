"""
The configuration: one YAML file, read into frozen values.  The only place that knows the file's format.

Every key has a default, an unknown key is an error, and all problems are told at once, each with its path
in the file.  Nothing is clamped or guessed.  `config.example.yaml` shows every key with the reason for it.
"""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

__all__ = ["Config", "ConfigProblem", "load", "parse", "warnings_of"]

_LATER = {
    "adopt",
    "backend_gone_s",
    "capture",
    "debug",
    "expires",
    "force",
    "lms",
    "priority",
    "rate_per_min",
    "ring",
    "state",
    "strip",
    "tls",
    "tokenizer",
    "ttl_s",
}
"""Keys of the plan that this version does not have; told as such, for they are no spelling mistakes."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_MERGE = "tag:yaml.org,2002:merge"
_MOST_VALUES = 100_000
_NO_KEY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""The SHA-256 of nothing: what `printf %s "$KEY" | sha256sum` says when the variable is not set."""


class ConfigProblem(Exception):
    """The file cannot be used; *problems* lists why, each line with its path in the file."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _bytes(value: Any) -> Any:
    """Read `22GiB`, `64 MiB` or a plain number of bytes."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match and match[2].upper() in _UNITS:
        return int(float(match[1]) * _UNITS[match[2].upper()])
    if isinstance(value, str):
        raise ValueError("not a size; write it like 64MiB or 22GiB")
    return _number(value)


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError("not an address or a network; write it like 192.168.1.0/24") from None
    return value


def _url(value: str) -> str:
    """Take what `backends/openai.py` understands whole; a password in it would be dropped in silence."""
    try:
        parts, port = urlsplit(value), urlsplit(value).port
    except ValueError:
        raise ValueError("not an http(s) URL of a server") from None
    is_more = parts.query or parts.fragment or parts.username is not None or re.search(r"\s", value)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or is_more:
        raise ValueError("not an http(s) URL of a server")
    return value.rstrip("/")


def _hash(value: str) -> str:
    if value == _NO_KEY:
        raise ValueError("the SHA-256 of an empty key")
    return value


def _token(value: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]*", value):
        raise ValueError("not a token; it is one word of ASCII, without 'Bearer'")
    return value


def _number(value: Any) -> Any:
    """Refuse YAML's `on` and `yes`, which pydantic would take for 1."""
    if isinstance(value, bool):
        raise ValueError("not a number")
    return value


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Size = Annotated[int, BeforeValidator(_bytes), Field(gt=0, lt=2**63)]
Integer = Annotated[int, BeforeValidator(_number)]
Number = Annotated[float, BeforeValidator(_number)]
Seconds = Annotated[Number, Field(gt=0)]
Count = Annotated[Integer, Field(ge=1)]
Network = Annotated[str, AfterValidator(_network)]
Name = Annotated[str, Field(pattern=_NAME)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$"), AfterValidator(_hash)]
Token = Annotated[str, AfterValidator(_token)]


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
    url: Annotated[str, AfterValidator(_url)]
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
        if not path.is_dir():
            raise ValueError(f"{path} is not a directory")
        return path


BackendConfig = Annotated[OpenAIBackend | GGUFBackend, Field(discriminator="kind")]


class Defaults(Section):
    """Parameters injected where a request has none of its own."""

    temperature: Number | None = Field(default=None, ge=0, le=2)
    top_p: Number | None = Field(default=None, ge=0, le=1)
    top_k: Integer | None = Field(default=None, ge=0)
    min_p: Number | None = Field(default=None, ge=0, le=1)
    max_tokens: Count | None = None
    stop: Annotated[tuple[str, ...], BeforeValidator(_several)] | None = None
    seed: Integer | None = None
    repeat_penalty: Number | None = Field(default=None, ge=0)
    presence_penalty: Number | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(default=None, ge=-2, le=2)
    reasoning_effort: str | None = None

    def given(self) -> dict[str, Any]:
        """Return the parameters that are set."""
        return self.model_dump(exclude_none=True)


class Load(Section):
    """How a model is loaded, for backends that can be told."""

    context_length: Integer | None = Field(default=None, ge=128)
    flash_attention: bool | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that are set."""
        return self.model_dump(exclude_none=True)


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
        problems = [*self._exposed(), *self._dangling(), *self._doubles()]
        if problems:
            raise ConfigProblem(problems)
        return self

    def _exposed(self) -> Iterator[str]:
        access = self.access
        if not _is_loopback(self.listen.host) and not (access.keys or access.allow or access.open):
            yield (
                f"listen.host: {self.listen.host} is open to others; "
                "set access.keys or access.allow (or access.open: true)"
            )

    def _dangling(self) -> Iterator[str]:
        for name, backend in self.backends.items():
            if isinstance(backend, GGUFBackend) and backend.device not in self.devices:
                yield f"backends.{name}.device: there is no device {backend.device!r} under devices"
        for name, model in self.models.items():
            if model.backend is not None and model.backend not in self.backends:
                yield f"models.{name}.backend: there is no backend {model.backend!r} under backends"

    def _doubles(self) -> Iterator[str]:
        owner = {name: name for name in self.models}
        for name, model in self.models.items():
            for alias in model.aliases:
                if owner.setdefault(alias, name) != name:
                    yield f"models.{name}.aliases: {alias!r} already means {owner[alias]!r}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """
    Read and check the file at *path*; relative paths in it are taken from its folder.

    Raises `ConfigProblem` with everything that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigProblem([f"{path}: cannot be read: {exc}"]) from exc
    return parse(text, environ, base=path.parent)


def parse(text: str, environ: Mapping[str, str], *, base: Path = Path()) -> Config:
    """Check the configuration in *text*, with `${NAME}` taken from *environ*."""
    values = _values(text)
    problems: list[str] = []
    values = _resolve(values if values is not None else {}, environ, base, "", problems)
    try:
        config = Config.model_validate(values)
    except ConfigProblem as exc:
        raise ConfigProblem(problems + exc.problems) from exc
    except ValidationError as exc:
        raise ConfigProblem(problems + [_told(error) for error in exc.errors()]) from exc
    if problems:
        raise ConfigProblem(problems)
    return config


def _values(text: str) -> Any:
    """Read YAML; what is wrong is told without the text it stands in, which may be a secret."""
    try:
        values = yaml.load(text, Loader=_OneOfEach)
    except yaml.MarkedYAMLError as exc:
        problem = re.sub(r"'[^']{2,}'", "...", exc.problem or "unreadable")
        raise ConfigProblem([f"not YAML: {_place(exc.problem_mark)}{problem}"]) from exc
    except yaml.reader.ReaderError as exc:
        raise ConfigProblem([f"not YAML: {exc.reason} (position {exc.position})"]) from exc
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as exc:
        # PyYAML lets through what int(), datetime() and its own tables say to a scalar like 2024-13-45.
        raise ConfigProblem(
            ["not YAML: a value in it has the form of a number or a date but is none"]
        ) from exc
    if _is_bomb(values):
        raise ConfigProblem(["not YAML: its anchors unfold to too much"])
    return values


def _is_bomb(values: Any) -> bool:
    """Tell whether *values* are too many, for anchors may stand for themselves and for one another."""
    waiting, seen = [values], 0
    while waiting and seen <= _MOST_VALUES:
        value, seen = waiting.pop(), seen + 1
        waiting.extend(
            value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        )
    return seen > _MOST_VALUES


def _place(mark: yaml.Mark | None) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""


class _OneOfEach(yaml.SafeLoader):
    """A loader that refuses a key given twice, where YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if isinstance(node, yaml.MappingNode):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
            for key in keys:
                if isinstance(key, str) and keys.count(key) > 1:
                    place = _place(node.start_mark)
                    raise ConfigProblem([f"not YAML: {place}the key {key!r} is given twice"])
        return super().construct_mapping(node, deep)


def _resolve(value: Any, environ: Mapping[str, str], base: Path, at: str, problems: list[str]) -> Any:
    """Put environment variables and the file's folder into the texts of *value*."""
    if isinstance(value, dict):
        return {k: _resolve(v, environ, base, f"{at}.{k}".lstrip("."), problems) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v, environ, base, f"{at}[{i}]", problems) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if name not in environ:
            problems.append(f"{at}: the environment has no variable {name}")
    if "${" in _VARIABLE.sub("", value):
        problems.append(f"{at}: write a variable of the environment as ${{NAME}}")
    value = _VARIABLE.sub(lambda match: environ.get(match[1], ""), value)
    return _path(value, base) if re.fullmatch(r"backends\..+\.path", at) else value


def _path(value: str, base: Path) -> Path:
    try:
        return base / Path(value).expanduser()
    except RuntimeError:  # of a user who is not there
        return base / value


def _told(error: Any) -> str:
    """Write one of pydantic's errors as `path: what is wrong`."""
    backend, kind = error["loc"][:2], error["loc"][2:3]
    tagged = backend[:1] == ("backends",) and kind in (("openai",), ("gguf",))
    where = [*backend, *error["loc"][3:]] if tagged else error["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    last = str(where[-1]) if where else ""
    if error["type"] == "extra_forbidden":
        return f"{path}: {'not built yet' if last in _LATER else 'no such key'}"
    if error["type"] == "union_tag_invalid":
        return f"{path}.kind: {error['ctx']['tag']!r} is not built; there are: openai, gguf"
    if error["type"] == "union_tag_not_found":
        return f"{path}.kind: missing; there are: openai, gguf"
    if error["type"] == "string_pattern_mismatch" and last == "sha256":
        return f"{path}: not a SHA-256; write 64 lower-case hex digits, never the key itself"
    if error["type"] in ("dict_type", "model_type", "model_attributes_type"):
        return f"{path or 'the file'}: must be a mapping (key: value)"
    return f"{path or 'the file'}: {error['msg'].removeprefix('Value error, ')}"


def warnings_of(config: Config, load_s: float = 10) -> list[str]:
    """
    Tell what the file allows but its owner may not want.

    *load_s* is the cost of a load that nobody has measured yet.
    """
    return [*_long_waits(config, load_s), *_too_open(config)]


def _long_waits(config: Config, load_s: float) -> Iterator[str]:
    """Find devices where a waiter may see all other models go first: models x (residency + 1) x cost."""
    for name, device in config.devices.items():
        rivals = sum(_device_of(config, model) == name for model in config.models.values())
        longest = rivals * (device.residency + 1) * load_s
        if rivals > device.max_models and longest > device.wait_s:
            yield (
                f"devices.{name}: {rivals} models can keep a request waiting {longest:.0f} s "
                f"(loads of {load_s:.0f} s), longer than wait_s of {device.wait_s:.0f} s"
            )


def _device_of(config: Config, model: Model) -> str | None:
    switching = {n: b.device for n, b in config.backends.items() if isinstance(b, GGUFBackend)}
    if model.backend is None and len(switching) == 1:
        return next(iter(switching.values()))
    return switching.get(model.backend or "")


def _too_open(config: Config) -> Iterator[str]:
    access = config.access
    if not _is_loopback(config.listen.host) and access.open and not (access.keys or access.allow):
        yield "access.open: anyone who reaches this host may use every model"
