"""The table in `docs/clients.md`, and the notes below it, between the page's marks."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from bench.clients.verdict import TASKS, Cell

BEGIN = "<!-- what python -m bench.clients saw -->"
END = "<!-- until here -->"
Row = tuple[str, str, Mapping[str, Cell]]
"""A client's title, its version, and its cells by task."""


def table(rows: list[Row]) -> list[str]:
    """Return the lines of the table, and a line for each thing that needs more words."""
    notes: dict[tuple[str, str], list[str]] = {}
    lines = [f"| client | version | {' | '.join(TASKS)} |", "|---" * (len(TASKS) + 2) + "|"]
    for title, version, cells in rows:
        words = [_worded(title, task, cells[task], notes) for task in TASKS]
        lines.append(f"| {title} | {version} | {' | '.join(words)} |")
    told = [
        f"{number}. {title}, {', '.join(tasks)}: `{note}`"
        for number, ((title, note), tasks) in enumerate(notes.items(), start=1)
    ]
    return [*lines, "", *told] if told else lines


def _worded(title: str, task: str, cell: Cell, notes: dict[tuple[str, str], list[str]]) -> str:
    if not cell.note:
        return cell.word
    note = re.sub(r"/\S*/site-packages/", "", cell.note)
    note = re.sub(r"127\.0\.0\.1:\d+", "HOST:PORT", note).replace("`", "'")
    notes.setdefault((title, note), []).append(task)
    return f"{cell.word} ({list(notes).index((title, note)) + 1})"


def keep(path: Path, rows: list[Row]) -> list[Row]:
    """Put *rows* into the file at *path*, in the places of older ones; return all that it then has."""
    kept = {title: (title, version, cells) for title, version, cells in _read(path)}
    kept |= {row[0]: row for row in rows}
    plain = [
        (title, version, {k: asdict(v) for k, v in cells.items()}) for title, version, cells in kept.values()
    ]
    path.write_text(json.dumps(plain, indent=1))
    return list(kept.values())


def _read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    plain = json.loads(path.read_text())
    return [(title, version, {k: Cell(**v) for k, v in cells.items()}) for title, version, cells in plain]


def written(page: str, lines: list[str]) -> str:
    """Return *page* with *lines* between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page lacks {BEGIN!r} and {END!r}")
    return "\n".join([before + BEGIN, "", *lines, "", END + after])


def write(path: Path, lines: list[str]) -> None:
    """Write *lines* into the page at *path*."""
    path.write_text(written(path.read_text(), lines))
