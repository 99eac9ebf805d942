"""
How LM Studio words its answers and errors, in the forms of its four families of routes.

Sources are named as in `backends.md` section 1.  The server that speaks them is `lmstudio_emulator`.
"""

import contextlib
import itertools
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
    """
    How the completions routes put tokens into words; `model` names the instance that answers.

    The fields of a chunk are those of [lmstudio-js #320], those of a whole answer of [#601].  With *usage*,
    which is `stream_options.include_usage`, a stream has one more chunk [DOC api-changelog.md 0.3.18].
    """

    chat: bool
    instance: Instance
    v0: bool = False
    usage: bool = False

    async def records(self, tokens: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
        """Stream; an error comes in a record of a 200 [DOC api-changelog.md 0.3.18; odysseus #736]."""
        count = 0
        try:
            async with contextlib.aclosing(tokens):
                async for token in tokens:
                    count += 1
                    yield data(self._chunk(token, None))
        except Unloaded as why:  # whether `[DONE]` follows is UNCONFIRMED; it does not here
            yield data({"error": {"message": str(why), "type": "model_load_failed"}})
            return
        yield data(self._chunk("", "stop"))
        if self.usage:
            yield data({**self._envelope(".chunk"), "choices": [], "usage": _usage(count)})
        yield b"data: [DONE]\n\n"

    def whole(self, words: list[str]) -> dict[str, Any]:
        text = "".join(words)
        message = {"role": "assistant", "content": text, "tool_calls": []}
        said = {"message": message} if self.chat else {"text": text}
        stats = {"tokens_per_second": 51.4, "time_to_first_token": 0.1, "stop_reason": "eosFound"}
        told = {"usage": _usage(len(words)), "stats": stats if self.v0 else {}}
        return {**self._envelope(""), "choices": [_choice(said, "stop")], **told}

    def _chunk(self, text: str, finish: str | None) -> dict[str, Any]:
        delta = {"role": "assistant", "content": text} if text else {}
        said = {"delta": delta} if self.chat else {"text": text}
        return {**self._envelope(".chunk"), "choices": [_choice(said, finish)]}

    def _envelope(self, suffix: str) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        id = self.instance.id
        return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": id, "system_fingerprint": id}


def _choice(said: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, **said, "logprobs": None, "finish_reason": finish}


def _usage(tokens: int) -> dict[str, Any]:
    return {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}


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
    """
    `/v1/responses`, with the events around a text and the indices that OpenAI's helpers put it together by.

    LM Studio keeps to Open Responses, as it says [#1420 on its announcement, 0.4.0]; these are its events.
    """
    words: list[str] = []
    at, part = {"output_index": 0}, {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    numbers = itertools.count()

    def event(kind: str, **fields: Any) -> bytes:
        return data({"type": kind, "sequence_number": next(numbers), **fields}, kind)

    begun = response_of(instance, words, "in_progress")
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    yield event("response.output_item.added", **at, item=_item([], "in_progress"))
    yield event("response.content_part.added", **part, part=_text(words))
    try:
        async with contextlib.aclosing(tokens):
            async for token in tokens:
                words.append(token)
                yield event("response.output_text.delta", **part, delta=token, logprobs=[])
    except Unloaded as why:
        yield event("error", code="server_error", message=str(why), param=None)
        return
    yield event("response.output_text.done", **part, text="".join(words), logprobs=[])
    yield event("response.content_part.done", **part, part=_text(words))
    yield event("response.output_item.done", **at, item=_item([_text(words)]))
    yield event("response.completed", response=response_of(instance, words))


def response_of(instance: Instance, words: list[str], status: str = "completed") -> dict[str, Any]:
    """The whole answer; its fields are those of [#1420], with `usage` as Open Responses has it."""
    count, done = len(words), status == "completed"
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    usage = {"input_tokens": 1, "output_tokens": count, "total_tokens": 1 + count, **details}
    unset = ("incomplete_details", "previous_response_id", "instructions", "error")
    return {
        **{"id": "resp_1", "object": "response", "created_at": 1, "status": status, "model": instance.id},
        **dict.fromkeys(unset),
        **{"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        **{"output": [_item([_text(words)])] if done else [], "usage": usage if done else None},
    }


def _item(content: list[dict[str, Any]], status: str = "completed") -> dict[str, Any]:
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": status, "content": content}


def _text(words: list[str]) -> dict[str, Any]:
    return {"type": "output_text", "text": "".join(words), "annotations": [], "logprobs": []}


async def message_events(instance: Instance, tokens: AsyncGenerator[str]) -> AsyncGenerator[bytes]:
    yield data({"type": "message_start", "message": message_of(instance, [])}, "message_start")
    block = {"type": "text", "text": ""}
    yield data({"type": "content_block_start", "index": 0, "content_block": block}, "content_block_start")
    count = 0
    try:
        async with contextlib.aclosing(tokens):
            async for token in tokens:
                count += 1
                delta = {"type": "text_delta", "text": token}
                yield data({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")
    except Unloaded as why:  # the form is Anthropic's; LM Studio's own is UNCONFIRMED
        yield data({"type": "error", "error": {"type": "api_error", "message": str(why)}}, "error")
        return
    yield data({"type": "content_block_stop", "index": 0}, "content_block_stop")
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    usage = {"output_tokens": count}
    yield data({"type": "message_delta", "delta": ended, "usage": usage}, "message_delta")
    yield data({"type": "message_stop"}, "message_stop")


def message_of(instance: Instance, words: list[str]) -> dict[str, Any]:
    content = [{"type": "text", "text": "".join(words)}] if words else []
    usage = {"input_tokens": 1, "output_tokens": len(words)}
    return {
        **{"id": "msg_1", "type": "message", "role": "assistant", "model": instance.id},
        **{"content": content, "stop_reason": "end_turn" if words else None, "stop_sequence": None},
        **{"usage": usage},
    }
