"""New keys: shown once, known by their hash, accepted as printed."""

import hashlib
import re

import pytest

from dmap.access.keys import entry, make
from dmap.cli import main
from dmap.config import ConfigProblem, Key, parse

BACKENDS = "backends: {a: {kind: openai, url: 'http://127.0.0.1:1'}}\n"


def read(line: str) -> Key:
    """Read *line* as the configuration does."""
    return parse(f"{BACKENDS}access:\n  keys:\n    - {line}\n", {}).access.keys[0]


def test_a_key_is_long_and_new():
    """A key has 256 bits of chance, in characters that any header can bear."""
    keys = {make() for _ in range(1000)}

    assert len(keys) == 1000
    assert all(re.fullmatch(r"dmap-[A-Za-z0-9_-]{43}", key) for key in keys)


def test_the_line_knows_the_key_by_its_hash():
    """The line for the configuration holds the name and the hash, and what a key may do by default."""
    key = make()

    line = entry("webui", key)

    assert read(line) == Key(name="webui", sha256=hashlib.sha256(key.encode()).hexdigest())
    assert key not in line


def test_the_line_holds_what_was_asked_for():
    """Scopes, models and bounds are read back as they were given."""
    models = ["qwen*", 'odd "name": x', "größe"]
    bounds = {"expires": "2030-01-31", "parallel": 4, "rate_per_min": None}

    noted = read(entry("a.b-c_1", "k", scopes=["debug", "admin"], models=models, **bounds))

    assert noted.scopes == ("debug", "admin")
    assert noted.models == ("qwen*", 'odd "name": x', "größe")
    assert (noted.parallel, noted.rate_per_min, f"{noted.expires:%Y-%m-%d}") == (4, None, "2030-01-31")


def test_a_key_without_a_scope():
    """A key may be made that can do no more than list models."""
    assert read(entry("lister", "k", scopes=[])).scopes == ()


@pytest.mark.parametrize(("name", "scopes"), [("", ()), ("two words", ()), ("a\nb", ()), ("x", ("root",))])
def test_what_the_configuration_refuses_is_not_printed(name, scopes):
    """A name or a scope that the configuration would refuse is refused here."""
    with pytest.raises(ConfigProblem, match=r"^(name|scopes\[0\]): "):
        entry(name, "k", scopes=scopes)


@pytest.mark.parametrize(
    "words",
    [
        ["webui", "--models", "qwen*,gpt-*", "--scopes", "inference,admin"],
        ["webui", "--models", "qwen*, gpt-*", "--scopes", "inference, admin"],
        ["--scopes", "inference,admin", "--models", "qwen*,gpt-*", "webui"],
        ["--scopes", "inference", "--scopes", "admin", "--models=qwen*", "--models", "gpt-*", "webui"],
        ["--scopes=inference", "--scopes=admin", "webui", "--models", "qwen*,gpt-*"],
    ],
)
def test_the_command(capsys, words):
    """`dmap key new` prints the key on a line of its own, and below it the line to paste."""
    assert main(["key", "new", *words]) == 0

    key, *_, line = capsys.readouterr().out.splitlines()
    noted = read(line.strip().removeprefix("- "))
    assert noted.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert (noted.name, noted.models, noted.scopes) == ("webui", ("qwen*", "gpt-*"), ("inference", "admin"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["two words"], "name: not a name: up to 64 letters, digits,"),
        (["--scopes", "admin", "x,y"], "name: not a name: up to 64 letters, digits,"),
        (["x", "--scopes", "admin,root"], "scopes[1]: must be 'inference', 'front', 'debug' or 'admin'"),
        (["x", "--scopes", ""], "scopes[0]: must be 'inference', 'front', 'debug' or 'admin'"),
        (["x", "--models", ""], "--models: a name is empty"),
        (["x", "--models", "a,"], "--models: a name is empty"),
        (["--scopes", "admin"], "the following arguments are required: NAME"),
        ([], "the following arguments are required: NAME"),
        (["app", "--expires", "2026-01-01"], "--expires: 2026-01-01 has come: the key would be refused"),
    ],
)
def test_a_wrong_word(capsys, words, said):
    """What cannot be is told with its place, and no key is made; the exit code is 2."""
    with pytest.raises(SystemExit) as ended:
        main(["key", "new", *words])

    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert f"dmap key new: error: {said}" in told.err
