"""OpenAI's client for Python."""

import json
import sys
from typing import Any

from openai import OpenAI
from said import BIAS, CITY, HELLO, LONG, PICTURE, first, gathered, run

client = OpenAI(base_url=f"{sys.argv[2]}/v1", api_key=sys.argv[3])
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}


def chat(model: str = "tiny-sea", messages: Any = HELLO) -> dict[str, Any]:
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=20)
    return {"text": answer.choices[0].message.content}


def stream(model: str = "tiny-sea", tokens: int = 20) -> dict[str, Any]:
    chunks = client.chat.completions.create(model=model, messages=HELLO, max_tokens=tokens, stream=True)
    return gathered(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def tools() -> dict[str, Any]:
    answer = client.chat.completions.create(
        model="tiny-sea",
        messages=HELLO,
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        extra_body={"logit_bias": BIAS},
        max_tokens=200,
    )
    call = answer.choices[0].message.tool_calls[0].function
    return {"tool": call.name, "city": json.loads(call.arguments)["city"]}


def embeddings() -> dict[str, Any]:
    answer = client.embeddings.create(model="tiny-embed", input=["the sea"])
    return {"size": len(answer.data[0].embedding)}


def vision() -> dict[str, Any]:
    shown = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
    ]
    return chat("seeing", [{"role": "user", "content": shown}])


def responses() -> dict[str, Any]:
    events = client.responses.create(model="tiny-sea", input="Hello", max_output_tokens=20, stream=True)
    return gathered(event.delta for event in events if event.type == "response.output_text.delta")


def responses_helper() -> dict[str, Any]:
    pieces = 0
    with client.responses.stream(model="tiny-sea", input="Hello", max_output_tokens=20) as events:
        for event in events:
            pieces += event.type == "response.output_text.delta"
        return {"text": events.get_final_response().output_text, "pieces": pieces}


def count() -> dict[str, Any]:
    return {"count": client.responses.input_tokens.count(model="tiny-sea", input="Hello").input_tokens}


def cancel() -> dict[str, Any]:
    with client.chat.completions.create(model="slow", messages=HELLO, max_tokens=LONG, stream=True) as chunks:
        next(iter(chunks))
        first()
    return {"text": ""}


run(
    {
        "models": lambda: {"models": [model.id for model in client.models.list()]},
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "embeddings": embeddings,
        "vision": vision,
        "responses": responses,
        "responses helper": responses_helper,
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
