"""The command `llm`, with dmap's models in its `extra-openai-models.yaml`."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from said import LONG, RED, UNLED, first, gathered, run

FOLDER = Path(tempfile.mkdtemp(prefix="llm"))
COMMAND = (str(Path(sys.executable).with_name("llm")),)


def started(*arguments: str) -> subprocess.Popen[bytes]:
    entry = "- {{model_id: {0}, model_name: {0}, api_base: '{1}/v1', api_key_name: dmap, vision: true}}\n"
    names = ("tiny-sea", "seeing", "slow", "late", "nope")
    models = "".join(entry.format(name, sys.argv[2]) for name in names)
    (FOLDER / "extra-openai-models.yaml").write_text(models)
    known = {**os.environ, "LLM_USER_PATH": str(FOLDER), "OPENAI_API_KEY": sys.argv[3]}
    pipe = subprocess.PIPE
    given = (*COMMAND, *arguments, "--key", sys.argv[3], "Hello")
    return subprocess.Popen(given, env=known, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)


def pieces(child: subprocess.Popen[bytes]) -> Iterator[str]:
    while piece := os.read(child.stdout.fileno(), 4096):
        yield piece.decode()


def asked(model: str, *arguments: str, tokens: int = 20) -> dict[str, Any]:
    child = started("-m", model, "-o", "max_tokens", str(tokens), *arguments)
    said = gathered(pieces(child))
    complaint = child.stderr.read().decode().strip()
    return {"error": complaint or f"exit {child.returncode}"} if child.wait() else said


def vision() -> dict[str, Any]:
    import base64

    picture = FOLDER / "red.png"
    picture.write_bytes(base64.b64decode(RED))
    return asked("seeing", "-a", str(picture))


def cancel() -> dict[str, Any]:
    child = started("-m", "slow", "-o", "max_tokens", str(LONG))
    os.read(child.stdout.fileno(), 1)
    first()
    child.send_signal(signal.SIGINT)
    child.wait()
    return {"text": ""}


run(
    {
        "chat": lambda: asked("tiny-sea", "--no-stream"),
        "stream": lambda: asked("tiny-sea"),
        "tools": lambda: {"untried": f"{UNLED}, and llm has no logit_bias by token"},
        "vision": vision,
        "cancel": cancel,
        "wrong key": lambda: asked("tiny-sea"),
        "unknown model": lambda: asked("nope"),
        "busy 429": lambda: asked("tiny-sea", "--no-stream"),
        "busy 503": lambda: asked("late", "--no-stream"),
        "broken": lambda: asked("slow", tokens=LONG),
        "queue": lambda: asked("tiny-sea"),
    }
)
