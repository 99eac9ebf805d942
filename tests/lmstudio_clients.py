"""
Clients in front of an emulated LM Studio: they ask in all dialects, and judge every answer by its text.

An emulated model says its own key, once per token, so an answer tells who gave it and whether it is whole.
The counterpart is `lmstudio_soak`, which has them ask while things happen.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.lmstudio_world import SPECS

CHATS = tuple(spec.key for spec in SPECS if not spec.embedding)
EMBED = next(spec.key for spec in SPECS if spec.embedding)
PATHS = (
    *("/v1/chat/completions", "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"),
    *("/api/v0/chat/completions", "/api/v1/chat"),
)
LAST_EVENTS = {"response.completed", "message_stop", "chat.end"}


@dataclass(frozen=True)
class Call:
    """One request: *tokens* is how many words a whole answer has."""

    path: str
    model: str
    tokens: int
    stream: bool

    def body(self) -> dict[str, Any]:
        asked = {"model": self.model, "stream": self.stream}
        words = [{"role": "user", "content": "Hello"}]
        match self.path:
            case "/v1/embeddings":
                return {"model": self.model, "input": "Hello"}
            case "/api/v1/chat":
                return {**asked, "input": "Hello", "max_output_tokens": self.tokens}
            case "/v1/responses":
                return {**asked, "input": "Hello", "max_output_tokens": self.tokens}
            case "/v1/completions":
                return {**asked, "prompt": "Hello", "max_tokens": self.tokens}
            case _:
                return {**asked, "messages": words, "max_tokens": self.tokens}


def drawn(rng: random.Random, home: str) -> Call:
    """Draw a request of a client that asks *home* most of the time."""
    if rng.random() < 0.12:
        return Call("/v1/embeddings", EMBED, 0, stream=False)
    model = home if rng.random() < 0.7 else rng.choice(CHATS)
    return Call(rng.choice(PATHS), model, rng.randint(5, 40), rng.random() < 0.7)


@dataclass(frozen=True)
class Verdict:
    """
    What one request came to.

    *kind* is `answer`; `error`, with a status and a body in OpenAI's shape; `told`, inside the stream;
    or one of what must not be: `wrong` (another model's words), `short` (an end that looks like one),
    `mute` (a cut or an error without a word), `hang`.  *why* is the code and the message.
    """

    kind: str
    call: Call
    client: int
    began: float
    ended: float
    why: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass
class Tally:
    """All verdicts of a run."""

    verdicts: list[Verdict] = field(default_factory=list)

    def of(self, *kinds: str) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.kind in kinds]

    @property
    def bad(self) -> list[Verdict]:
        """What must never be, whatever happens to the server."""
        return self.of("wrong", "short", "mute", "hang")

    def kinds(self) -> Counter[str]:
        return Counter(verdict.kind for verdict in self.verdicts)

    def reasons(self) -> Counter[str]:
        return Counter(one.why.partition(":")[0] for one in self.verdicts if one.kind != "answer")

    def longest(self) -> Verdict:
        return max(self.of("answer"), key=lambda verdict: verdict.seconds)

    def fewest(self) -> int:
        """Count the answers of the client that got the fewest."""
        return min(Counter(verdict.client for verdict in self.of("answer")).values(), default=0)

    def first_after(self, at: float) -> Verdict | None:
        """Return the first answer to a request that was sent after *at*, or was waiting by then."""
        return min((v for v in self.of("answer") if v.ended >= at), key=lambda v: v.ended, default=None)


class Client:
    """One app, with an address of its own, so that dmap tells it from the others."""

    def __init__(self, number: int, url: str, bound_s: float) -> None:
        self._number = number
        self._bound_s = bound_s
        connector = aiohttp.TCPConnector(local_addr=(f"127.0.1.{number + 1}", 0))
        self._session = aiohttp.ClientSession(url, connector=connector, headers={"Host": "localhost"})

    async def ask(self, call: Call) -> Verdict:
        """Ask once, and judge what comes; an answer that takes over *bound_s* hangs."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self._bound_s):
                kind, why = await self._exchange(call)
        except TimeoutError:
            kind, why = "hang", f"no end within {self._bound_s:g} s"
        except aiohttp.ClientError as exc:
            kind, why = "mute", f"{type(exc).__name__}: {exc}"
        return Verdict(kind, call, self._number, began, clock(), why)

    async def close(self) -> None:
        await self._session.close()

    async def _exchange(self, call: Call) -> tuple[str, str]:
        async with self._session.post(call.path, json=call.body()) as answer:
            body, broken = await read(answer)
            if answer.status != 200:
                return _judged_error(answer.status, body)
            if answer.content_type == "text/event-stream":
                return judged_stream(call, body, broken)
            return _judged_plain(call, body) if broken is None else ("mute", f"cut: {broken!r}")


async def read(answer: aiohttp.ClientResponse) -> tuple[bytes, Exception | None]:
    """Read what there is, up to a break; aiohttp drops what came before a break and was not taken yet."""
    body = b""
    try:
        async for piece in answer.content.iter_any():
            body += piece
    except aiohttp.ClientError as exc:
        answer.content.set_exception(None)
        return body + answer.content.read_nowait(), exc
    return body, None


def _judged_error(status: int, body: bytes) -> tuple[str, str]:
    try:
        error = json.loads(body)["error"]
        return "error", f"{status} {error['code']}: {error['message']}"
    except (ValueError, KeyError, TypeError):
        return "mute", f"{status}: {body[:80]!r}"


def _judged_plain(call: Call, body: bytes) -> tuple[str, str]:
    payload = json.loads(body)
    if call.path == "/v1/embeddings":
        meant = payload["model"].partition(":")[0] == call.model  # the id of the instance, maybe `key:2`
        return ("answer", "") if meant else ("wrong", payload["model"])
    return _judged_words(call, "".join(_texts(payload)), ended=True)


def judged_stream(call: Call, body: bytes, broken: Exception | None) -> tuple[str, str]:
    text, ended = "", False
    for at, record in enumerate(_records(body)):
        if error := _error(record):
            kind = _judged_words(call, text, ended=False)[0]
            return ("wrong", text) if kind == "wrong" else ("told", f"in-band {error} after {at} records")
        text += _piece(record)
        ended = record == "[DONE]" or (isinstance(record, dict) and record.get("type") in LAST_EVENTS)
    if broken is not None:
        return "mute", f"cut: {broken!r}"
    return _judged_words(call, text, ended=ended)


def _judged_words(call: Call, text: str, *, ended: bool) -> tuple[str, str]:
    words = text.split()
    if set(words) - {call.model}:
        return "wrong", text
    return ("answer", "") if ended and len(words) == call.tokens else ("short", f"{len(words)}: of {call}")


def _records(body: bytes) -> Iterator[Any]:
    """Yield the data of the records: JSON, or `[DONE]`."""
    for line in body.decode().splitlines():
        if line.startswith("data:"):
            data = line.removeprefix("data:").strip()
            yield data if data == "[DONE]" else json.loads(data)


def _error(record: Any) -> str:
    if not isinstance(record, dict) or not (record.get("error") or record.get("type") == "error"):
        return ""
    error = record.get("error") or record
    return f"{error.get('code') or error.get('type')}: {error.get('message')}"


def _piece(record: Any) -> str:
    """Return what one record adds to the text."""
    if not isinstance(record, dict):
        return ""
    if "choices" in record:
        choice = record["choices"][0]
        return choice.get("text") or choice.get("delta", {}).get("content") or ""
    if record.get("type") == "message.delta":
        return record["content"]
    delta = record.get("delta", "")
    return delta if isinstance(delta, str) else delta.get("text", "")


def _texts(payload: Any) -> Iterator[str]:
    """Yield the texts of a whole answer, wherever its dialect has them."""
    if isinstance(payload, list):
        for one in payload:
            yield from _texts(one)
    elif isinstance(payload, dict):
        for name in ("choices", "message", "output", "content", "text"):
            inner = payload.get(name)
            if isinstance(inner, str):
                yield inner
            else:
                yield from _texts(inner)
