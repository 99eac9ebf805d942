"""`config.example.yaml`: it loads, it leaves nothing out, and it says of each key why."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

import dmap
from dmap.backends.node.section import ELSEWHERE
from dmap.config import Config, load, warnings_of
from dmap.kinds import KINDS

EXAMPLE = Path(dmap.__file__).parent.parent / "config.example.yaml"
ENVIRONMENT = {
    "FRONT_KEY": "sk-front",
    "REDIS_PASSWORD": "pw",
    "SERVER_API_KEY": "sk-server",
    "LM_API_TOKEN": "sk-lm-1",
    "WEBUI_KEY_SHA256": "5e" * 32,
}


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the example where its owner would: beside a folder of models, LM Studio's command in the home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    lms = tmp_path / ".lmstudio" / "bin" / "lms"
    lms.parent.mkdir(parents=True)
    lms.touch(mode=0o755)
    path = tmp_path / "config.yaml"
    path.write_text(EXAMPLE.read_text())
    return path


def fields_of(section: Any) -> Iterator[tuple[str, str]]:
    """Yield (section, field) of everything that can be written in *section* and below it."""
    for kind in filter(_is_section, _inside(section)):
        for name, field in kind.model_fields.items():
            yield kind.__name__, name
            yield from fields_of(field.annotation)


def _inside(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from _inside(argument)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def given_in(section: BaseModel) -> Iterator[tuple[str, str]]:
    """Yield (section, field) of everything that was written, not defaulted, in *section* and below it."""
    for name in section.model_fields_set:
        yield type(section).__name__, name
        yield from (each for inner in _sections(getattr(section, name)) for each in given_in(inner))


def _sections(value: Any) -> Iterator[BaseModel]:
    match value:
        case BaseModel():
            yield value
        case dict():
            yield from (inner for each in value.values() for inner in _sections(each))
        case tuple():
            yield from (inner for each in value for inner in _sections(each))


def test_it_loads(example):
    """The example is a working configuration, with a backend of each kind."""
    config = load(example, ENVIRONMENT)

    assert {backend.kind for backend in config.backends.values()} == KINDS.keys()
    assert warnings_of(config, datetime.now(UTC)) == []


def test_every_field_occurs(example):
    """Every field that a configuration can have is written in the example; that it loads says the reverse."""
    config = load(example, ENVIRONMENT)

    sections = (Config, *(kind.section for kind in KINDS.values()))
    fields = {field for section in sections for field in fields_of(section)}
    elsewhere = {("NodeSection", name) for name in ELSEWHERE}
    assert {field for field in fields if field[0] != "BackendSection"} - set(given_in(config)) == elsewhere


def test_every_key_says_why():
    """Each line of the example that has a key with a value ends with a comment."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if re.match(r"[ -]*[a-z_0-9]+: ", line)]

    assert [line for line in lines if "  # " not in line and "  - name" not in line] == []


@pytest.mark.parametrize("section", ["debug", "server"])
def test_it_shows_the_defaults(example, section):
    """Where no comment says 'here', the value is the default."""
    config = load(example, ENVIRONMENT)

    assert getattr(config, section) == Config.model_fields[section].default


def test_values_not_marked_here_are_defaults(example):
    """On a device and on backends too, a value without 'here' in its comment is the default."""
    config = load(example, ENVIRONMENT)
    kinds = {"gpu0": config.devices["gpu0"], **config.backends}

    changed = {
        (entry, name)
        for entry, section in kinds.items()
        for name, field in type(section).model_fields.items()
        if not field.is_required() and getattr(section, name) != field.default
    }

    assert changed == {
        ("gpu0", "memory"),
        ("gpu0", "gpus"),
        ("gpu0", "together"),
        ("gpu0", "preload"),
        ("gpu0", "return_s"),
        ("engine", "threads"),
        ("engine", "env"),
        ("studio", "api_key"),
        ("studio", "parallel"),
        ("studio", "lms"),
        ("server", "api_key"),
        ("box", "parallel"),
        ("server", "parallel"),
        ("server", "device"),
        ("server", "memory"),
        ("box1", "ca"),
    }


def test_secrets_come_from_the_environment():
    """The example has no key of its own, not even a hashed one, that somebody could leave in."""
    values = yaml.safe_load(EXAMPLE.read_text())

    assert values["access"]["keys"][0]["sha256"] == "${WEBUI_KEY_SHA256}"
    assert values["backends"]["studio"]["api_key"] == "${LM_API_TOKEN}"
    assert values["backends"]["server"]["api_key"] == "${SERVER_API_KEY}"
