"""The command `curl`, in the version of HTTP that `HTTP` names: `1.0` or `1.1`."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from said import BIAS, CITY, HELLO, LONG, PICTURE, first, gathered, run

COMMAND = ("curl", "-sSN", f"--http{os.environ['HTTP']}", "--fail-with-body", "--retry", "3")
HEADERS = ("-H", f"Authorization: Bearer {sys.argv[3]}", "-H", "Content-Type: application/json")
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}


def started(path: str, body: Any = None) -> subprocess.Popen[bytes]:
    sent = () if body is None else ("-d", json.dumps(body))
    pipe = subprocess.PIPE
    return subprocess.Popen((*COMMAND, *HEADERS, *sent, f"{sys.argv[2]}{path}"), stdout=pipe, stderr=pipe)


def got(path: str, body: Any = None) -> Any:
    child = started(path, body)
    out, complaint = child.communicate()
    if child.returncode:
        raise RuntimeError(f"{complaint.decode().strip()}: {out.decode()}")
    # A try that is repeated leaves its refusal in the output, on the line before.
    return json.loads(out[out.rindex(b'{"choices"') if b"}{" in out else 0 :])


def asked(model: str = "tiny-sea", messages: Any = HELLO, **fields: Any) -> Any:
    return got("/v1/chat/completions", {"model": model, "messages": messages, "max_tokens": 20, **fields})


def chat(model: str = "tiny-sea", messages: Any = HELLO) -> dict[str, Any]:
    return {"text": asked(model, messages)["choices"][0]["message"]["content"]}


def stream(model: str = "tiny-sea", tokens: int = 20) -> dict[str, Any]:
    body = {"model": model, "messages": HELLO, "max_tokens": tokens, "stream": True}
    child = started("/v1/chat/completions", body)
    said: dict[str, Any] = {"done": False, "comments": 0}
    said |= gathered(_pieces(child, said))
    if child.wait():
        raise RuntimeError(child.stderr.read().decode())
    return said


def _pieces(child: subprocess.Popen[bytes], said: dict[str, Any]) -> Iterator[str]:
    for line in child.stdout:
        said["comments"] += line.startswith(b":")
        said["done"] |= line.strip() == b"data: [DONE]"
        if line.startswith(b"data: {"):
            record = json.loads(line[6:])
            if "error" in record:
                raise RuntimeError(f"told in the stream: {record['error']['message']}")
            yield from (choice["delta"].get("content") or "" for choice in record["choices"])


def tools() -> dict[str, Any]:
    answer = asked(
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        logit_bias=BIAS,
        max_tokens=200,
    )
    call = answer["choices"][0]["message"]["tool_calls"][0]["function"]
    return {"tool": call["name"], "city": json.loads(call["arguments"])["city"]}


def embeddings() -> dict[str, Any]:
    answer = got("/v1/embeddings", {"model": "tiny-embed", "input": "the sea"})
    return {"size": len(answer["data"][0]["embedding"])}


def vision() -> dict[str, Any]:
    shown = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
    ]
    return chat("seeing", [{"role": "user", "content": shown}])


def responses() -> dict[str, Any]:
    answer = got("/v1/responses", {"model": "tiny-sea", "input": "Hello", "max_output_tokens": 20})
    return {"text": answer["output"][0]["content"][0]["text"], "pieces": 2}


def count() -> dict[str, Any]:
    return {
        "count": got("/v1/responses/input_tokens", {"model": "tiny-sea", "input": "Hello"})["input_tokens"]
    }


def cancel() -> dict[str, Any]:
    body = {"model": "slow", "messages": HELLO, "max_tokens": LONG, "stream": True}
    child = started("/v1/chat/completions", body)
    child.stdout.readline()
    first()
    child.terminate()
    child.wait()
    return {"text": ""}


run(
    {
        "models": lambda: {"models": [model["id"] for model in got("/v1/models")["data"]]},
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "embeddings": embeddings,
        "vision": vision,
        "responses": responses,
        "count": count,
        "cancel": cancel,
        "wrong key": chat,
        "unknown model": lambda: chat("nope"),
        "busy 429": chat,
        "busy 503": lambda: chat("late"),
        "broken": lambda: stream("slow", LONG),
        "queue": stream,
    }
)
