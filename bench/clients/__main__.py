"""
Run real clients against a daemon with real engines, and write into `docs/clients.md` what came of it.

`python -m bench.clients`; `--only 'OpenAI, Python,curl'` runs some and prints the table only.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from bench.clients.place import MODELS, Place, place
from bench.clients.play import play
from bench.clients.programs import PROGRAMS, Program
from bench.clients.table import Row, table, write
from bench.clients.verdict import TASKS, Cell
from tests.models import make

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/clients.md"
KEPT = ROOT / "bench/results/clients"
"""Where the clients are installed, one folder each; the next run finds them there."""


def main() -> None:
    """Read the command line, run the clients, write the table; exit with 1 where a cell is bad."""
    options = _options()
    chosen = [each for each in PROGRAMS if options.only in each.title]
    with tempfile.TemporaryDirectory(prefix="clients") as folder:
        rows = asyncio.run(_rows(Path(folder), chosen, options.tasks.split(",")))
    print("\n".join(lines := table(rows)))
    if len(chosen) == len(PROGRAMS) and options.tasks == ",".join(TASKS):
        write(PAGE, lines)
    sys.exit(not all(cell.good for _, _, cells in rows for cell in cells.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--only", default="", help="only clients whose title has this; the page stays as it is"
    )
    parser.add_argument("--tasks", default=",".join(TASKS), help="only these; the page stays as it is")
    return parser.parse_args()


async def _rows(folder: Path, chosen: list[Program], tasks: list[str]) -> list[Row]:
    for name in MODELS:
        make(name, folder / "models")
    async with place(folder, folder / "models") as running:
        return [await _row(running, program, tasks) for program in chosen]


async def _row(running: Place, program: Program, tasks: list[str]) -> Row:
    """Have one client do all *tasks*, each in a process of its own."""
    where = KEPT / program.title.strip("`").replace(" ", "_")
    command, version = await asyncio.to_thread(program.install, program, where)
    cells: dict[str, Cell] = dict.fromkeys(TASKS, Cell(""))
    for task in tasks:
        cells[task] = await play(running, task, command, program.environment)
        print(f"{program.title}, {task}: {cells[task].word} {cells[task].note}", file=sys.stderr)
    return program.title, version, cells


if __name__ == "__main__":
    main()
