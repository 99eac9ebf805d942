"""
How LM Studio words its answers and errors, in the forms of its four families of routes.

Sources are named as in `backends.md` section 1.  The server that speaks them is `lmstudio_emulator`.
"""

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.lmstudio_world import Instance, Unloaded

TOO_LONG = (
    "The number of tokens to keep from the initial prompt is greater than the context length. Try to load "
    "the model with a larger context length, or provide a shorter input"
)  # [OBS 0.4.25 M063]
NO_TOKEN = (
    "An LM Studio API token is required to make requests to this server, but none was provided using the "
    "Authorization header using the 'Bearer' scheme (i.e., 'Authorization: Bearer $LM_API_TOKEN'). Learn "
    "more at: https://lmstudio.ai/docs/developer/core/authentication."
)  # opencode-lmstudio #41, 0.4.18
HTML = "<!DOCTYPE html>\n<html><body><pre>Internal Server Error</pre></body></html>"


def openai(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": "model", "code": code}}


def native(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


def data(payload: Mapping[str, Any], event: str | None = None) -> bytes:
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(payload)}\n\n".encode()


@dataclass(frozen=True)
class Form:
    """How the completions routes put tokens into words; `model` names the instance that answers."""

    chat: bool
    instance: Instance
    v0: bool = False

    async def records(self, tokens: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
        """Stream; an error comes in a record of a 200 [DOC api-changelog.md 0.3.18; odysseus #736]."""
        try:
            async with contextlib.aclosing(tokens):
                async for token in tokens:
                    yield data(self._chunk(token, None))
        except Unloaded as why:  # whether `[DONE]` follows is UNCONFIRMED; it does not here
            yield data({"error": {"message": str(why), "type": "model_load_failed"}})
            return
        yield data(self._chunk("", "stop"))
        yield b"data: [DONE]\n\n"

    def whole(self, words: list[str]) -> dict[str, Any]:
        text = "".join(words)
        said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        usage = {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": 1 + len(words)}
        answer = {**self._envelope(""), "choices": [{"index": 0, **said, "finish_reason": "stop"}]}
        stats = {"tokens_per_second": 51.4, "time_to_first_token": 0.1, "stop_reason": "eosFound"}
        return {**answer, "usage": usage, "stats": stats if self.v0 else {}}

    def _chunk(self, text: str, finish: str | None) -> dict[str, Any]:
        said = {"delta": {"content": text}} if self.chat else {"text": text}
        return {**self._envelope(".chunk"), "choices": [{"index": 0, **said, "finish_reason": finish}]}

    def _envelope(self, suffix: str) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": self.instance.id}


async def native_events(instance: Instance, tokens: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
    """`/api/v1/chat` [DOC streaming-events.md]: `error` does not end the stream, `chat.end` still follows."""
    words: list[str] = []
    yield data({"type": "chat.start", "model_instance_id": instance.id}, "chat.start")
    for kind in ("prompt_processing.start", "prompt_processing.end", "prompt_processing.end"):
        yield data({"type": kind}, kind)  # `.end` was seen twice in one stream
    yield data({"type": "message.start"}, "message.start")
    try:
        async with contextlib.aclosing(tokens):
            async for token in tokens:
                words.append(token)
                yield data({"type": "message.delta", "content": token}, "message.delta")
    except Unloaded as why:
        error = {"type": "internal_error", "message": str(why)}
        yield data({"type": "error", "error": error}, "error")
    yield data({"type": "message.end"}, "message.end")
    yield data({"type": "chat.end", "result": native_result(instance, words)}, "chat.end")


def native_result(instance: Instance, words: list[str]) -> dict[str, Any]:
    stats = {"input_tokens": 1, "total_output_tokens": len(words), "reasoning_output_tokens": 0}
    output = [{"type": "message", "content": "".join(words)}]
    return {"model_instance_id": instance.id, "output": output, "stats": stats, "response_id": "resp_1"}


async def response_events(instance: Instance, tokens: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
    words: list[str] = []
    created = response_of(instance, words, "in_progress")
    yield data({"type": "response.created", "response": created}, "response.created")
    try:
        async with contextlib.aclosing(tokens):
            async for token in tokens:
                words.append(token)
                kind = "response.output_text.delta"
                yield data({"type": kind, "delta": token}, kind)
    except Unloaded as why:
        yield data({"type": "error", "code": "server_error", "message": str(why), "param": None}, "error")
        return
    completed = response_of(instance, words)
    yield data({"type": "response.completed", "response": completed}, "response.completed")


def response_of(instance: Instance, words: list[str], status: str = "completed") -> dict[str, Any]:
    content = [{"type": "output_text", "text": "".join(words), "annotations": []}]
    output = [{"type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": content}]
    return {"id": "resp_1", "object": "response", "status": status, "model": instance.id, "output": output}


async def message_events(instance: Instance, tokens: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
    yield data({"type": "message_start", "message": message_of(instance, [])}, "message_start")
    block = {"type": "text", "text": ""}
    yield data({"type": "content_block_start", "index": 0, "content_block": block}, "content_block_start")
    try:
        async with contextlib.aclosing(tokens):
            async for token in tokens:
                delta = {"type": "text_delta", "text": token}
                yield data({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")
    except Unloaded as why:  # the form is Anthropic's; LM Studio's own is UNCONFIRMED
        yield data({"type": "error", "error": {"type": "api_error", "message": str(why)}}, "error")
        return
    yield data({"type": "content_block_stop", "index": 0}, "content_block_stop")
    yield data({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, "message_delta")
    yield data({"type": "message_stop"}, "message_stop")


def message_of(instance: Instance, words: list[str]) -> dict[str, Any]:
    content = [{"type": "text", "text": "".join(words)}] if words else []
    usage = {"input_tokens": 1, "output_tokens": len(words)}
    return {
        **{"id": "msg_1", "type": "message", "role": "assistant", "model": instance.id},
        **{"content": content, "stop_reason": "end_turn" if words else None, "usage": usage},
    }
