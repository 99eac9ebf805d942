"""Run the attacks and print what came of them; the exit code is 1 if anything got past, froze it or died."""

import argparse
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import uvloop

from bench.attack import bypass, doors, files, frames, freeze, unheard

Part = Callable[[argparse.Namespace], Awaitable[tuple[Iterable[str], list[str]]]]
SHOWN = 20


def _tried(work: Callable[..., Awaitable[dict[str, bypass.Result]]], *names: str) -> Part:
    """Return a part that tries to get past something; *names* are the options that it takes."""

    async def part(options: argparse.Namespace) -> tuple[Iterable[str], list[str]]:
        results = await work(*(getattr(options, name) for name in names))
        findings = [f"{group}: {each}" for group, result in results.items() for each in result.findings]
        return bypass.table(results), findings

    return part


def _frozen(work: Callable[..., Awaitable[list[freeze.Freeze]]], **more: Any) -> Part:
    """Return a part that measures what freezes dmap."""

    async def part(_: argparse.Namespace) -> tuple[Iterable[str], list[str]]:
        frozen = await work(**more)
        return freeze.table(frozen), [
            f"{each.name}: {each.reading}, {each.outcome}" for each in frozen if each.is_bad
        ]

    return part


async def _unheard(options: argparse.Namespace) -> tuple[Iterable[str], list[str]]:
    bugs = await unheard.unheard(options.seed, options.bugs)
    return unheard.table(bugs), [
        f"{bug.place} {bug.number} {bug.error}: {bug.complaint}" for bug in bugs if bug.complaint
    ]


PARTS: dict[str, Part] = {
    "bypass": _tried(bypass.bypass, "seed", "fuzzed"),
    "frames": _tried(frames.smuggle),
    "hosts": _tried(doors.hosts),
    "oracle": _tried(doors.oracle),
    "orders": _tried(doors.orders),
    "files": _tried(files.files),
    "bombs": _frozen(freeze.bombs),
    "requests": _frozen(freeze.requests),
    "captured": _frozen(freeze.requests, capture=True),
    "answers": _frozen(freeze.answers),
    "lists": _frozen(freeze.lists),
    "unheard": _unheard,
}
"""Every part by its name, in the order in which they run."""


async def main(options: argparse.Namespace) -> int:
    """Run the chosen parts; return the exit code."""
    bad = 0
    for name in options.only or PARTS:
        began = time.monotonic()
        lines, findings = await PARTS[name](options)
        print(f"\n## {name}: {len(findings)} findings in {time.monotonic() - began:.0f} s\n")
        print("\n".join([*lines, "", *(f"- {finding}" for finding in findings[:SHOWN])]), flush=True)
        bad += len(findings)
    return int(bool(bad))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Attack a running dmap and look at what comes of it.")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fuzzed", type=int, default=1000, help="bodies, and forms, by chance")
    parser.add_argument("--bugs", type=int, default=20, help="put in, one for each run")
    sys.exit(uvloop.run(main(parser.parse_args())))
