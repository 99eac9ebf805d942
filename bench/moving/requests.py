"""The same requests to llama-swap and to dmap, which has the imported configuration and the same engines."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.moving.words import running
from bench.switches.place import free_ports
from dmap.demo.models import SPECS, Spec, make
from dmap.demo.vocabulary import SEA
from dmap.moving import imported

KEY = "sk-of-an-app"
WHO = {"Authorization": f"Bearer {KEY}"}
LIMIT_S = 60.0

SOURCE = """
apiKeys: ["{key}"]
includeAliasesInList: true
macros:
  server: "{engine} --host 127.0.0.1 --port ${{PORT}} -c 2048 -np 2 -t 1 --offline"
groups:
  small: {{swap: false, exclusive: false, members: [embed]}}
models:
  sea:
    cmd: ${{server}} -m {folder}/tiny-sea.gguf --alias ${{MODEL_ID}}
    aliases: [gpt-4o-mini]
    ttl: 600
  kitchen:
    cmd: ${{server}} -m {folder}/tiny-kitchen.gguf --alias org/kitchen -n 12
    useModelName: org/kitchen
    concurrencyLimit: 1
    filters:
      stripParams: max_tokens
      setParamsByID:
        "${{MODEL_ID}}:short": {{max_tokens: 2}}
        "${{MODEL_ID}}:json": {{chat_template_kwargs: {{enable_thinking: false}}}}
  forced:
    cmd: ${{server}} -m {folder}/tiny-sea.gguf --alias ${{MODEL_ID}}
    unlisted: true
    filters: {{setParams: {{max_tokens: 4}}}}
  embed:
    cmd: ${{server}} -m {folder}/embed.gguf --embeddings --alias ${{MODEL_ID}}
  broken:
    cmd: sh -c 'echo no such file; exit 3' ${{PORT}}
"""


@dataclass(frozen=True)
class Call:
    """A request: *path* with its method, *body* and *headers*, *times* at once."""

    path: str
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=lambda: WHO)
    times: int = 1


def chat(model: str | None, **fields: Any) -> dict[str, Any]:
    """Return a chat request."""
    named = {} if model is None else {"model": model}
    messages = [{"role": "user", "content": "Tell me a story"}]
    return {**named, "messages": messages, "temperature": 0, "seed": 1, "max_tokens": 8, **fields}


CHAT = "POST /v1/chat/completions"
SAME: dict[str, Call] = {
    "the list of models": Call("GET /v1/models"),
    "the list without a key": Call("GET /v1/models", headers={}),
    "a chat with a wrong key": Call(CHAT, chat("sea"), {"Authorization": "Bearer sk-wrong"}),
    "a chat with the key as `x-api-key`": Call(CHAT, chat("sea"), {"x-api-key": KEY}),
    "a chat": Call(CHAT, chat("sea")),
    "a chat as a stream": Call(CHAT, chat("sea", stream=True)),
    "a chat by an alias": Call(CHAT, chat("gpt-4o-mini")),
    "a completion": Call(
        "POST /v1/completions", {"model": "sea", "prompt": "Hello", "max_tokens": 4, "seed": 1}
    ),
    "OpenAI's responses": Call(
        "POST /v1/responses", {"model": "sea", "input": "Hello", "max_output_tokens": 4}
    ),
    "Anthropic's messages": Call(
        "POST /v1/messages",
        {"model": "sea", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]},
    ),
    "Anthropic's count of tokens": Call(
        "POST /v1/messages/count_tokens", {"model": "sea", "messages": [{"role": "user", "content": "Hello"}]}
    ),
    "embeddings": Call("POST /v1/embeddings", {"model": "embed", "input": "Hello"}),
    "another model": Call(CHAT, chat("kitchen")),
    "`stripParams: max_tokens` (the request has 3)": Call(CHAT, chat("kitchen", max_tokens=3)),
    "`setParamsByID` of `max_tokens: 2`": Call(CHAT, chat("kitchen:short")),
    "`setParamsByID` of `chat_template_kwargs`": Call(CHAT, chat("kitchen:json")),
    "`setParams: {max_tokens: 4}`, unlisted": Call(CHAT, chat("forced")),
    "4 at once where `concurrencyLimit` is 1": Call(CHAT, chat("kitchen"), times=4),
    "a model that does not start": Call(CHAT, chat("broken")),
    "no such model": Call(CHAT, chat("nobody")),
    "no model": Call(CHAT, chat(None)),
    "no JSON": Call(CHAT, "{"),
    "no such route": Call("POST /v1/nothing", chat("sea")),
    "a route that the engine lacks": Call("POST /v1/audio/speech", {"model": "sea", "input": "Hello"}),
    "rerank, of a model not made for it": Call(
        "POST /v1/rerank", {"model": "sea", "query": "a", "documents": ["b"]}
    ),
    "llama.cpp's `/completion`": Call(
        "POST /completion", {"model": "sea", "prompt": "Hello", "n_predict": 4}
    ),
    "`/v/chat/completions`": Call("POST /v/chat/completions", chat("sea")),
    "`/health`": Call("GET /health", headers={}),
    "`/metrics`": Call("GET /metrics"),
    "a browser asks first (CORS)": Call(
        "OPTIONS /v1/chat/completions", headers={"Origin": "https://a.example"}
    ),
}
"""By what is asked."""

CONTROL: dict[str, tuple[Call, Call]] = {
    "what is loaded": (Call("GET /running"), Call("GET /admin/models")),
    "what a server said": (Call("GET /logs"), Call("GET /debug/logs/sea")),
    "load a model": (Call("GET /upstream/sea/health"), Call("POST /admin/models/load", {"model": "sea"})),
    "a path of the engine's own": (
        Call("POST /upstream/sea/tokenize", {"content": "Hello"}),
        Call("POST /upstream/sea/tokenize", {"content": "Hello"}),
    ),
    "what the engine is": (Call("GET /props?model=sea"), Call("GET /v1/models/sea")),
    "unload one": (Call("POST /api/models/unload/sea"), Call("POST /admin/models/unload", {"model": "sea"})),
    "what goes on": (Call("GET /api/metrics/activity"), Call("GET /admin/queue")),
    "the version": (Call("GET /api/version"), Call("GET /debug/status")),
    "unload all": (Call("GET /unload"), Call("POST /admin/drain", {"unload": True})),
}
"""By what is wanted: as llama-swap is asked for it, and dmap."""


def table(swap: Path, engine: Path) -> list[str]:
    """Return both tables as Markdown."""
    with tempfile.TemporaryDirectory(prefix="moving") as name:
        folder = Path(name)
        source = _source(folder, engine)
        with running(swap, folder, source, {}) as url:
            theirs = _answers(url, {**SAME, **{what: pair[0] for what, pair in CONTROL.items()}})
        with _dmap(folder, source) as url:
            ours = _answers(url, {**SAME, **{what: pair[1] for what, pair in CONTROL.items()}})
    rows = [f"| {what} | {theirs[what]} | {ours[what]} |" for what in SAME]
    orders = [
        f"| {what} | `{pair[0].path}` | {theirs[what]} | `{_asked(pair[1])}` | {ours[what]} |"
        for what, pair in CONTROL.items()
    ]
    return [
        *("| asked | llama-swap | dmap |", "|---|---|---|", *rows, ""),
        *("| wanted | of llama-swap | it answers | of dmap | it answers |", "|---|---|---|---|---|", *orders),
    ]


def _asked(call: Call) -> str:
    return f"{call.path} {json.dumps(call.body)}" if call.body is not None else call.path


def _source(folder: Path, engine: Path) -> str:
    for name, spec in SPECS.items():
        make(name, spec, folder)
    make("embed", Spec(SEA, 7, width=64, layers=2, heads=4, kv_heads=2, inner=160, embedding=True), folder)
    return SOURCE.format(key=KEY, engine=engine, folder=folder)


@contextmanager
def _dmap(folder: Path, source: str) -> Iterator[str]:
    """Run dmap with what `dmap import` makes of *source*; its port is another, and its key may do all."""
    port = next(free_ports())
    text = imported(source, os.environ, "llama-swap.yaml").replace("port: 8080", f"port: {port}")
    text = re.sub(r"(    - name: key1\n)", r"\1      scopes: [inference, debug, admin]\n", text)
    config, log = folder / "config.yaml", folder / "dmap.log"
    config.write_text(f"{text}\nstate: {folder}/state.json\n")
    with log.open("wb") as file:
        child = subprocess.Popen([sys.executable, "-m", "dmap", "serve", str(config)], stderr=file)
    try:
        deadline = time.monotonic() + LIMIT_S
        while "listening url=" not in log.read_text():
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dmap does not start: {log.read_text()}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait()


def _answers(url: str, calls: Mapping[str, Call]) -> dict[str, str]:
    return {what: _answer(url, call) for what, call in calls.items()}


def _answer(url: str, call: Call) -> str:
    """Ask *call*; return what came, in a few words."""
    with ThreadPoolExecutor(call.times) as threads:
        came = sorted(threads.map(lambda _: _ask(url, call), range(call.times)))
    said = [f"{came.count(each)} x {each}" if call.times > 1 else each for each in dict.fromkeys(came)]
    return "; ".join(said)


def _ask(url: str, call: Call) -> str:
    method, _, path = call.path.partition(" ")
    body = call.body if isinstance(call.body, str) or call.body is None else json.dumps(call.body)
    headers = {**call.headers, **({"Content-Type": "application/json"} if body is not None else {})}
    sent = body.encode() if body is not None else None
    request = urllib.request.Request(url + path, sent, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return f"{answer.status}{_said(answer.read())}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code}{_complaint(error.read())}"


def _said(body: bytes) -> str:
    """Say what is in a good answer, in a few words."""
    if body.startswith(b"data: ") or b"\ndata: " in body:
        return f", a stream of {body.count(b'data: {')} records{', [DONE]' if b'[DONE]' in body else ''}"
    try:
        told = json.loads(body)
    except ValueError:
        return f", {body[:20].decode(errors='replace').strip()!r}" if len(body) < 30 else ", text"
    if not isinstance(told, dict):
        return ", JSON"
    if "choices" in told:
        choice, usage = told["choices"][0], told.get("usage") or {}
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        begun = " ".join(text.split()[:2])
        return f", {usage.get('completion_tokens')} tokens of `{told['model']}`: {begun} ..."
    data = told.get("data")
    if isinstance(data, list) and data and isinstance(data[0].get("id"), str):
        return f", {', '.join(each['id'] for each in data)}"
    if isinstance(data, list) and data and "embedding" in data[0]:
        return f", a vector of {len(data[0]['embedding'])}"
    return f", {', '.join(list(told)[:3])}"


def _complaint(body: bytes) -> str:
    """Say why a request was refused."""
    try:
        error = json.loads(body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError):
        text = body.decode(errors="replace").strip()
    text = " ".join(str(text).split()).replace("|", "/")
    return f": {text[:90]}{'...' if len(text) > 90 else ''}"
