"""
Run real clients against a daemon with real engines, and write into `docs/clients.md` what came of it.

`python -m bench.clients`; with `--only curl` some of them anew.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from bench.clients.place import MODELS, Place, place
from bench.clients.play import play
from bench.clients.programs import PROGRAMS, Program
from bench.clients.table import Row, keep, table, write
from bench.clients.verdict import TASKS, Cell
from tests.models import make

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/clients.md"
KEPT = ROOT / "bench/results/clients"
"""Where the clients are installed, one folder each; the next run finds them there."""


def main() -> None:
    """Read the command line, run the clients, write the table; exit with 1 where a cell is bad."""
    only = _options().only
    with tempfile.TemporaryDirectory(prefix="clients") as folder:
        rows = asyncio.run(_rows(Path(folder), [each for each in PROGRAMS if only in each.title]))
    print("\n".join(table(rows)))
    places = {program.title: place for place, program in enumerate(PROGRAMS)}
    kept = [row for row in keep(KEPT / "rows.json", rows) if row[0] in places]
    write(PAGE, table(sorted(kept, key=lambda row: places[row[0]])))
    sys.exit(not all(cell.good for _, _, cells in rows for cell in cells.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="only clients whose title has this")
    return parser.parse_args()


async def _rows(folder: Path, chosen: list[Program]) -> list[Row]:
    for name in MODELS:
        make(name, folder / "models")
    async with place(folder, folder / "models") as running:
        return [await _row(running, program) for program in chosen]


async def _row(running: Place, program: Program) -> Row:
    """Have one client do all tasks, each in a process of its own."""
    where = KEPT / program.title.strip("`").replace(" ", "_")
    command, version = await asyncio.to_thread(program.install, program, where)
    cells: dict[str, Cell] = {}
    for task in TASKS:
        cells[task] = await play(running, task, command, program.environment)
        print(f"{program.title}, {task}: {cells[task].word} {cells[task].note}", file=sys.stderr)
    return program.title, version, cells


if __name__ == "__main__":
    main()
