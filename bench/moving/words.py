"""The words of each command, as the real llama-swap starts it, beside those that dmap makes."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.switches.place import free_ports
from tests.llama_swap_files import ENVIRONMENT, FILES, File

PROGRAMS = ("serve", "docker", "sh")
PORTS = range(5800, 5900)
RECORDER = """#!{python} -IS
import json, os, sys
with open({record!r}, "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""
START_S = 20.0
RECORD_S = 5.0


def compare(program: Path) -> int:
    """Print what differs; return the number of commands for which it does."""
    differing = 0
    for name, file in FILES.items():
        with tempfile.TemporaryDirectory(prefix="moving") as folder:
            told = dict(_told(program, Path(folder), file))
        wrong = [model for model, words in file.words.items() if not _same(told[model], words)]
        differing += len(wrong)
        print(f"{name}: {len(file.words) - len(wrong)} of {len(file.words)} the same", flush=True)
        for model in wrong:
            print(f"  {model!r}: llama-swap {told[model]}, dmap {list(file.words[model])}")
    return differing


def _same(told: Sequence[str], words: Sequence[str]) -> bool:
    """Tell whether *told* are *words* with whatever port llama-swap has chosen."""
    ports = ["9500", *map(str, PORTS)]
    return any(list(told) == [word.replace("9500", port) for word in words] for port in ports)


def _told(program: Path, folder: Path, file: File) -> Iterator[tuple[str, list[str]]]:
    """Yield for each model what the real llama-swap, *program*, starts."""
    record = folder / "record"
    record.touch()
    for name in PROGRAMS:
        (folder / name).write_text(RECORDER.format(python=sys.executable, record=str(record)))
        (folder / name).chmod(0o755)
    with running(program, folder, file.text, {**ENVIRONMENT, "PATH": str(folder)}) as url:
        for model in file.words:
            _ask(url, model)
            yield model, _recorded(record)


def _recorded(record: Path) -> list[str]:
    """Return the words that the recorder has got last; a command may be started after the answer."""
    deadline = time.monotonic() + RECORD_S
    while not (lines := record.read_text().splitlines()) and time.monotonic() < deadline:
        time.sleep(0.02)
    record.write_text("")
    return list(json.loads(lines[-1])) if lines else []


@contextmanager
def running(program: Path, folder: Path, text: str, environment: dict[str, str]) -> Iterator[str]:
    """Run llama-swap with the configuration *text*; yield where it answers."""
    config, log = folder / "llama-swap.yaml", folder / "llama-swap.log"
    config.write_text(text)
    address = f"127.0.0.1:{next(free_ports())}"
    command = [str(program), "-config", str(config), "-listen", address]
    with log.open("wb") as file:
        child = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **environment}, stdout=file, stderr=file
        )
    try:
        deadline = time.monotonic() + START_S
        while not _is_up(f"http://{address}/health"):
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"llama-swap does not start: {log.read_text()}")
            time.sleep(0.02)
        yield f"http://{address}"
    finally:
        child.terminate()
        child.wait()


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


def _ask(url: str, model: str) -> None:
    """Have *model* be started; whether it answers is of no interest."""
    body = json.dumps({"model": model, "messages": []}).encode()
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-secret-1"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, headers)
    try:
        urllib.request.urlopen(request, timeout=30).close()
    except urllib.error.HTTPError as error:
        error.close()
