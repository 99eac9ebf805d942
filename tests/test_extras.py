"""How an owner installs what some parts take: from the checkout, for no public index has this dmap."""

import configparser
import re
from pathlib import Path

import dmap
from dmap.extras import how

ROOT = Path(dmap.__file__).parent.parent
TEXTS = [ROOT / "README.md", ROOT / "config.example.yaml", ROOT / "Makefile"] + [
    path
    for folder in ("dmap", "docs", "examples", "systemd", "bench")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".yaml", ".sh", ".conf")
]
_FETCHED = re.compile(r"(?:pipx?|uv tool) install[^\n|`]*[ '\"]dmap(?:[\[<>=]|['\"](?!s\b)|$)", re.MULTILINE)


def extras_of(text: str) -> set[str]:
    """Return the extras that *text* tells people to install."""
    return set(re.findall(r"'\.\[([a-z,]+)\]'|how\(['\"]([a-z]+)['\"]\)", text))


def test_every_extra_is_there():
    """Whatever extra a page or a message names, `setup.cfg` has."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")

    named = {name for path in TEXTS for found in extras_of(path.read_text()) for name in found if name}

    assert named >= {"engine", "tokenizer", "plot"}
    assert {each for name in named for each in name.split(",")} <= {*parser["options.extras_require"]}


def test_nobody_is_sent_to_an_index():
    """No page and no message has pip fetch a package called dmap, which would be somebody else's."""
    assert [str(path) for path in TEXTS if _FETCHED.search(path.read_text())] == []
    assert _FETCHED.search("run: pip install 'dmap[engine]'") and _FETCHED.search("pipx install dmap")


def test_the_words():
    """The command is one for a shell in the checkout."""
    assert how("plot") == "run: .venv/bin/pip install -e '.[plot]' (a service: see docs/service.md)"
