"""Configurations that take whoever reads them long, or much memory."""

import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

import psutil

from bench.attack.bypass import Result


def _laughs(form: str, join: str, levels: int = 30) -> str:
    lines = [f"a0: &a0 {form % 'x'}"]
    lines += [f"a{at}: &a{at} {form % join.join([f'*a{at - 1}'] * 9)}" for at in range(1, levels)]
    return "\n".join(lines)


def _merges(levels: int, wide: int) -> str:
    lines = ["a0: &a0 {" + ", ".join(f"k{at}: 1" for at in range(wide)) + "}"]
    lines += [f"a{at}: &a{at} {{<<: [{', '.join([f'*a{at - 1}'] * 9)}]}}" for at in range(1, levels)]
    return "\n".join(lines)


FILES = {
    "billion laughs": lambda: _laughs("[%s]", ", "),
    "billion merges": lambda: _merges(9, 9),
    "wide merges": lambda: _merges(4, 20_000),
    "merges of merges": lambda: "a: &a {b: 1}\n" + "c: {<<: [" + "*a, " * 300_000 + "*a]}",
    "deep lists": lambda: "a: " + "[" * 100_000,
    "deep maps": lambda: "\n".join(" " * at + "a:" for at in range(3000)),
    "itself": lambda: "a: &a [*a]\nbackends: *a",
    "merge of itself": lambda: "a: &a {<<: *a}",
    "a number": lambda: "listen: {port: " + "9" * 5_000_000 + "}",
    "a number in base 60": lambda: "listen: {port: " + "1" + ":59" * 300_000 + "}",
    "a binary number": lambda: "listen: {port: 0b" + "1" * 5_000_000 + "}",
    "anchors": lambda: "\n".join(f"k{at}: &b{at} 1" for at in range(300_000)),
    "keys": lambda: "models: {" + ", ".join(f"m{at}: {{}}" for at in range(200_000)) + "}",
    "comments": lambda: "#\n" * 20_000_000,
    "a string": lambda: "a: '" + "x" * 50_000_000 + "'",
    "blanks": lambda: " " * 50_000_000,
    "Python": lambda: "a: !!python/object/apply:os.system ['touch /tmp/dmap-was-here']",
    "documents": lambda: "---\na: 1\n" * 300_000,
    "a size": lambda: "devices: {gpu0: {memory: " + "9" * 4000 + "GiB}}",
    "a variable": lambda: "listen: {host: '" + "${A}" * 2_000_000 + "'}",
    "a network": lambda: "access: {allow: [" + "10.0.0.0/8, " * 200_000 + "10.0.0.0/8]}",
}  # fmt: skip
FILE_S, FILE_MIB = 2.0, 400
"""Of CPU, and of memory."""


async def files() -> dict[str, Result]:
    """Have `check-config` read what must not take it long, nor much memory."""
    result = Result()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            path = Path(folder) / "config.yaml"
            path.write_text(text() + "\n")
            outcome, seconds, mib = await _checked(path)
            is_well = outcome == 78 and seconds < FILE_S and mib < FILE_MIB
            result.outcomes["refused"] += is_well
            if not is_well:
                result.findings.append(f"{name}: exit code {outcome}, {seconds:.1f} s, {mib:.0f} MiB")
    return {"files": result}


async def _checked(path: Path) -> tuple[int | None, float, float]:
    """Run `check-config`; return its exit code, None when it was stopped, its seconds of CPU and its MiB."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dmap", "check-config", str(path)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    seconds, most = 0.0, 0
    while child.returncode is None and seconds < 2 * FILE_S:
        with contextlib.suppress(TimeoutError, psutil.Error):
            process = psutil.Process(child.pid)
            seconds, most = sum(process.cpu_times()[:2]), max(most, process.memory_info().rss)
            await asyncio.wait_for(child.wait(), 0.02)
    if child.returncode is None:
        child.kill()
        await child.wait()
        return None, seconds, most / 2**20
    return child.returncode, seconds, most / 2**20
