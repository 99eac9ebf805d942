"""The pages in `docs/`: their links lead somewhere, and what they show is a configuration."""

import re
from pathlib import Path

import pytest

from dmap.config import parse

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
REST = "\nbackends: {server: {kind: openai, url: 'http://127.0.0.1:9'}}\n"
GIVEN = {"REDIS_PASSWORD": "a password"}


def anchors(page: Path) -> set[str]:
    """Return what a link to a heading of *page* may say, as GitHub makes it of the heading."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads(page: Path, link: str) -> bool:
    """Tell whether *link* on *page* leads to a file, and to a heading there if it names one."""
    name, _, heading = link.partition("#")
    there = page.parent / name if name else page
    return there.exists() and (not heading or heading in anchors(there))


def blocks(name: str) -> list[str]:
    """Return the pieces of YAML on the page *name*."""
    page = (ROOT / "docs" / name).read_text()
    return re.findall(r"^```yaml\n(.+?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """Each link to a file of ours leads there, to its heading, too."""
    links = re.findall(r"\]\(((?!\w+:)[^)\s]+)\)", page.read_text())

    assert [link for link in links if not leads(page, link)] == []


@pytest.mark.parametrize("name", ["cache.md", "redis.md"])
def test_what_needs_nothing_else(name: str) -> None:
    """The file of a dmap takes what these pages show."""
    (shown,) = blocks(name)

    assert parse(shown + REST, GIVEN).redis is not None


def test_copies(tmp_path: Path) -> None:
    """Both ways to have a model on two GPUs fit in one file, and `devices` makes a backend for each."""
    engines, studios = blocks("copies.md")
    text = engines.replace("path: models", f"path: {tmp_path}") + studios.removeprefix("backends:\n")

    assert set(parse(text, {}).backends) == {"engine@gpu0", "engine@gpu1", "studio0", "studio1"}
