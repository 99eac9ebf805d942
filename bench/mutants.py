"""
One-line faults, drawn by a seed, and whether the tests of the room notice: `make mutants`.

It works in copies of a commit.  The tests of a room run once under coverage.  A mutant then meets only the
tests that touch its line, the fastest first, in a process that is forked with pytest loaded.  A test that
fails has to fail again alone.  Results are kept: the same command goes on where it was stopped.

mutmut and cosmic-ray were tried.  Neither draws by a seed, nor knows which test touches which line of a room;
mutmut turns functions into trampolines, and leaves out whatever is decorated or stands outside of one.
"""

import argparse
import contextlib
import difflib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp.web  # noqa: F401  what is imported here, a mutant's process need not load
import coverage
import hypothesis  # noqa: F401
import msgspec  # noqa: F401
import openai  # noqa: F401
import prometheus_client  # noqa: F401
import pydantic  # noqa: F401
import pytest
import pytest_asyncio  # noqa: F401
import uvloop  # noqa: F401
import yaml  # noqa: F401
from mutations import Mutation, differs, lines_of, mutations

ROOT = Path(__file__).parent.parent
TESTS = {
    "arbiter": "arbiter*",
    "gate": "gate* device_models queue_view tasks adversity lmstudio lmstudio_proxy refusals admin requests",
    "relay": "relay* pool reply sweep client_retries requests story",
    "wire": "wire* tokens injection context client_bodies story capture debug refusals lmstudio_proxy",
    "access": "access* keys quota pages reload cors config",
}
"""The files `tests/test_*.py` of each room; a name that has no file is left out."""
HEAVY = ("tests/test_arbiter_walk.py", "tests/test_simulate.py")
"""Not run under coverage, which takes minutes.  They meet what nothing else of the arbiter notices."""
ALONE_S = 20.0
LONG_S = 60.0
TIMES = 8
"""A test of a mutant may take so many times as long as it takes, and `ALONE_S`."""
CODES = {0: "survived", 1: "killed"}


@dataclass
class Map:
    """Which tests touch which line, and how long each takes."""

    by_line: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    heavy: tuple[str, ...] = ()

    def tests_of(self, mutation: Mutation, source: str) -> list[str]:
        """Return the tests that may notice, the fastest first: for what runs at import all of the file."""
        by_line = self.by_line.get(mutation.path, {})
        found = {test for line in lines_of(mutation, source) for test in by_line.get(line, ())}
        if "" in found:
            found = {test for tests in by_line.values() for test in tests if test} or set(self.seconds)
        return sorted(found & self.seconds.keys(), key=lambda test: (self.seconds[test], test))


class Timer:
    """A plugin of pytest: writes how long each test takes, if it passes."""

    def __init__(self, file: Path) -> None:
        self.file, self.seconds, self.failed = file, Counter[str](), set[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if not report.passed:
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        passed = {test: seconds for test, seconds in self.seconds.items() if test not in self.failed}
        self.file.write_text(json.dumps(passed))


class Chosen:
    """A plugin of pytest: runs the given tests only, in the given order; tells which one failed."""

    def __init__(self, tests: list[str], seconds: dict[str, float]) -> None:
        self.place = {test: place for place, test in enumerate(tests)}
        self.seconds = seconds
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((one for one in items if self._place(one) is not None), key=self._place)
        for item in items:
            limit_s = ALONE_S + TIMES * self.seconds.get(item.nodeid, LONG_S)
            item.add_marker(pytest.mark.timeout(limit_s, method="thread"), append=False)  # ends the process

    def _place(self, item: pytest.Item) -> Any:
        """Its place in the order: that of the test, or of its file."""
        return self.place.get(item.nodeid, self.place.get(item.nodeid.partition("::")[0]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


class Tree:
    """A copy of the commit in which one mutant at a time lives."""

    def __init__(self, folder: Path, commit: str) -> None:
        self.folder = folder / "tree"
        self.log = folder / "log"
        self.verdict = folder / "verdict"
        self.temporary = folder / "temporary"
        shutil.rmtree(folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with subprocess.Popen(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE) as archive:
            subprocess.run(["tar", "x"], cwd=self.folder, stdin=archive.stdout, check=True)

    def fork(self, tests: list[str], seconds: dict[str, float], *options: str) -> int:
        """Run *tests* in a process of their own; return its id.  It leaves its verdict in a file."""
        self.verdict.write_text("")
        child = os.fork()
        if child == 0:
            self.enter()
            chosen = Chosen(tests, seconds)
            files = sorted({test.partition("::")[0] for test in tests})
            code = pytest.main([*files, "-x", "-q", *self.options(), *options], plugins=[chosen])
            self.verdict.write_text(json.dumps([int(code), chosen.failed]))
            sys.stdout.flush()
            os._exit(0)
        return child

    def options(self) -> tuple[str, ...]:
        """What pytest is told: one folder for all that is dear to make, see `tests.once`."""
        ignored = "ignore::pytest.PytestAssertRewriteWarning"
        run = self.temporary / "run"
        return "-p", "no:cacheprovider", "--timeout=900", "-W", ignored, f"--basetemp={run}"

    def enter(self, *, caching: bool = False) -> None:
        """Become a process that works in the copy, with its own group; *caching* keeps what it compiles."""
        os.setsid()
        self.temporary.mkdir(exist_ok=True)
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(self.folder)
        sys.dont_write_bytecode = not caching
        sys.path[:] = [
            str(self.folder),
            *(path for path in sys.path if Path(path).resolve() != ROOT / "bench"),
        ]
        os.environ.update(PYTHONPATH=str(self.folder), PYTEST_XDIST_WORKER="mutant")
        os.environ["PYTHONDONTWRITEBYTECODE"] = "" if caching else "1"


def end_of(child: int, limit_s: float) -> Iterator[None]:
    """Wait for the end of *child*, a turn at a time; then end all that it started."""
    deadline = time.monotonic() + limit_s
    has_ended = False
    try:
        while not has_ended and time.monotonic() < deadline:
            yield
            has_ended = os.waitpid(child, os.WNOHANG) != (0, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if not has_ended:
            os.waitpid(child, 0)


def trial(tree: Tree, mutation: Mutation, source: str, known: Map) -> Iterator[tuple[str, str]]:
    """Yield ("", "") while tests run, then the outcome and the test that noticed."""
    tests = [*known.tests_of(mutation, source), *known.heavy]
    file = tree.folder / mutation.path
    file.write_text(mutation.applied(source))
    while tests:
        limit_s = 3 * ALONE_S + TIMES * sum(known.seconds.get(test, LONG_S) for test in tests)
        for _ in end_of(tree.fork(tests, known.seconds), limit_s):
            yield "", ""
        code, failed = json.loads(tree.verdict.read_text() or '[-1, "the time"]')
        if code != 1 or not failed:
            break
        for _ in end_of(tree.fork([failed], known.seconds), limit_s):
            yield "", ""
        again, _ = json.loads(tree.verdict.read_text() or '[-1, ""]')
        if again != 0 or failed not in tests:
            break
        tests = [test for test in tests if test != failed]  # it fails now and then by itself
    else:
        code, failed = 0, ""
    file.write_text(source)
    yield CODES.get(code, "killed"), failed or ("" if code == 0 else f"exit {code}")


def mapped(tree: Tree, room: str, file: Path) -> Map:
    """Return which tests of *room* touch which of its lines, by running them once."""
    if not file.exists():
        patterns = TESTS[room].split()
        found = sorted(
            {path for name in patterns for path in (tree.folder / "tests").glob(f"test_{name}.py")}
        )
        names = [name for path in found if (name := str(path.relative_to(tree.folder))) not in HEAVY]
        print(f"{room}: {' '.join(name.removeprefix('tests/test_') for name in names)}", flush=True)
        seconds, data = _covered(tree, room, names, file)
        file.write_text(json.dumps({"by_line": data, "seconds": seconds}))
    kept = json.loads(file.read_text())
    by_line = {
        path: {int(line): tests for line, tests in lines.items()} for path, lines in kept["by_line"].items()
    }
    return Map(by_line, kept["seconds"], HEAVY if room == "arbiter" else ())


def _covered(tree: Tree, room: str, names: list[str], file: Path) -> tuple[dict[str, float], Any]:
    timed = file.with_suffix(".seconds")
    child = os.fork()
    if child == 0:
        tree.enter(caching=True)
        options = ("-q", f"--cov=dmap/{room}", "--cov-context=test", "--cov-report=", *tree.options())
        pytest.main([*names, *options], plugins=[Timer(timed)])
        sys.stdout.flush()
        os._exit(0)
    for _ in end_of(child, 3600):
        time.sleep(0.1)
    data = coverage.CoverageData(str(tree.folder / ".coverage"))
    data.read()
    paths = {Path(path): path for path in data.measured_files()}
    lines = {
        str(path.relative_to(tree.folder)): _tests_by_line(data.contexts_by_lineno(name))
        for path, name in paths.items()
    }
    return json.loads(timed.read_text()), lines


def _tests_by_line(contexts: dict[int, list[str]]) -> dict[int, list[str]]:
    return {
        line: sorted({context.rpartition("|")[0] for context in found}) for line, found in contexts.items()
    }


def drawn(folder: Path, room: str, seed: int, count: int) -> list[tuple[Mutation, str]]:
    """Draw *count* mutations of a room, the same for the same seed and the same code, with their sources."""
    sources = {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted((folder / "dmap" / room).rglob("*.py"))
    }
    candidates = [one for path, source in sources.items() for one in mutations(path, source)]
    random.Random(f"{seed} {room}").shuffle(candidates)
    found = ((one, sources[one.path]) for one in candidates if differs(one, sources[one.path]))
    return [one for one, _ in zip(found, range(count), strict=False)]


def shown(mutation: Mutation, source: str) -> str:
    """Return the fault as a diff."""
    lines = difflib.unified_diff(
        source.splitlines(),
        mutation.applied(source).splitlines(),
        mutation.path,
        mutation.path,
        "",
        "",
        2,
        "",
    )
    return "\n".join(lines)


@dataclass
class Campaign:
    """What is to be tried, what came of it, and where that is written."""

    folder: Path
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.file = self.folder / "results.jsonl"
        if self.file.exists():
            found = [json.loads(line) for line in self.file.read_text().splitlines()]
            self.results = {one["id"]: one for one in found}

    def note(self, mutation: Mutation, outcome: str, by: str, seconds: float) -> None:
        """Keep what came of *mutation*."""
        one = {"id": mutation.id, "outcome": outcome, "by": by, "seconds": round(seconds, 1)}
        self.results[mutation.id] = one
        with self.file.open("a") as file:
            file.write(json.dumps(one) + "\n")
        print(f"{len(self.results):4} {outcome:9} {seconds:6.1f} s  {mutation.id}  {by}", flush=True)

    def run(self, trees: list[Tree], room: str, todo: list[tuple[Mutation, str]], known: Map) -> None:
        """Try what has no result yet, one mutant per tree at a time."""
        waiting = [one for one in todo if one[0].id not in self.results]
        running: list[Any] = []
        free = list(trees)
        while waiting or running:
            while waiting and free:
                mutation, source = waiting.pop(0)
                tree = free.pop()
                running.append((mutation, tree, time.monotonic(), trial(tree, mutation, source, known)))
            time.sleep(0.05)
            running = [one for one in running if not self._ended(one, free)]

    def _ended(self, one: Any, free: list[Tree]) -> bool:
        mutation, tree, since, steps = one
        outcome, by = next(steps)
        if outcome:
            self.note(mutation, outcome, by, time.monotonic() - since)
            free.append(tree)
        return bool(outcome)

    def report(self, todo: dict[str, list[tuple[Mutation, str]]]) -> str:
        """Return the figures of each room and the survivors as diffs, in Markdown."""
        table, diffs = ["| room | drawn | killed | |", "|---|---|---|---|"], []
        for room, drawn in todo.items():
            tried = [(one, source) for one, source in drawn if one.id in self.results]
            left = [each for each in tried if self.results[each[0].id]["outcome"] == "survived"]
            killed = len(tried) - len(left)
            table.append(f"| {room} | {len(tried)} | {killed} | {killed / max(len(tried), 1):.0%} |")
            diffs += [
                f"\n## {room}: {one.operator}\n\n```diff\n{shown(one, source)}\n```" for one, source in left
            ]
        return "\n".join([*table, *diffs]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commit", default="HEAD", help="what is tested; HEAD")
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--each", type=int, default=60, help="mutants per room; 60")
    parser.add_argument("--rooms", nargs="*", default=list(TESTS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave through every `finally`
    commit = subprocess.run(
        ["git", "rev-parse", "--short=10", given.commit], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    folder = given.results.resolve() / f"mutants-{commit}"
    folder.mkdir(parents=True, exist_ok=True)
    trees = [Tree(folder / f"worker{number}", commit) for number in range(given.workers)]
    todo = {room: drawn(trees[0].folder, room, given.seed, given.each) for room in given.rooms}
    campaign = Campaign(folder)
    for room, each in todo.items():
        known = mapped(trees[0], room, folder / f"{room}.json")
        for tree in trees[1:]:
            shutil.copytree(trees[0].folder, tree.folder, dirs_exist_ok=True)
        campaign.run(trees, room, each, known)
        (folder / "report.md").write_text(campaign.report(todo))
    print(campaign.report(todo))


if __name__ == "__main__":
    main()
