"""Anthropic's client for Python."""

import sys
from typing import Any

from anthropic import Anthropic
from said import BIAS, CITY, HELLO, LONG, RED, UNLED, first, gathered, run

client = Anthropic(base_url=sys.argv[2], api_key=sys.argv[3])
WEATHER: Any = {"name": "weather", "input_schema": CITY}


def chat(model: str = "tiny-sea", messages: Any = HELLO) -> dict[str, Any]:
    answer = client.messages.create(model=model, messages=messages, max_tokens=20)
    return {"text": answer.content[0].text}


def stream(model: str = "tiny-sea", tokens: int = 20) -> dict[str, Any]:
    with client.messages.stream(model=model, messages=HELLO, max_tokens=tokens) as answer:
        return gathered(answer.text_stream)


def tools() -> dict[str, Any]:
    answer = client.messages.create(
        model="tiny-sea",
        messages=HELLO,
        tools=[WEATHER],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        extra_body={"logit_bias": BIAS},
        max_tokens=200,
    )
    calls = [block for block in answer.content if block.type == "tool_use"]
    if not calls:
        return {"untried": f"the tool was taken, but {UNLED}: llama.cpp heeds no logit_bias on /v1/messages"}
    call = calls[0]
    return {"tool": call.name, "city": call.input["city"]}


def vision() -> dict[str, Any]:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": RED}}
    return chat("seeing", [{"role": "user", "content": [{"type": "text", "text": "what is this"}, image]}])


def count() -> dict[str, Any]:
    return {"count": client.messages.count_tokens(model="tiny-sea", messages=HELLO).input_tokens}


def cancel() -> dict[str, Any]:
    with client.messages.stream(model="slow", messages=HELLO, max_tokens=LONG) as answer:
        next(iter(answer.text_stream))
        first()
    return {"text": ""}


run(
    {
        "models": lambda: {"models": [model.id for model in client.models.list()]},
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "vision": vision,
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
