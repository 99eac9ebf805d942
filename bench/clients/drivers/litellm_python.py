"""LiteLLM as a library, with dmap as a server of OpenAI's API."""

import json
import sys
from typing import Any

import litellm
from said import BIAS, CITY, HELLO, LONG, PICTURE, first, gathered, run

PLACE: Any = {"api_base": f"{sys.argv[2]}/v1", "api_key": sys.argv[3]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}


def chat(model: str = "tiny-sea", messages: Any = HELLO) -> dict[str, Any]:
    answer = litellm.completion(model=f"openai/{model}", messages=messages, max_tokens=20, **PLACE)
    return {"text": answer.choices[0].message.content}


def stream(model: str = "tiny-sea", tokens: int = 20) -> dict[str, Any]:
    chunks = litellm.completion(
        model=f"openai/{model}", messages=HELLO, max_tokens=tokens, stream=True, **PLACE
    )
    return gathered(chunk.choices[0].delta.content or "" for chunk in chunks)


def tools() -> dict[str, Any]:
    answer = litellm.completion(
        model="openai/tiny-sea",
        messages=HELLO,
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        extra_body={"logit_bias": BIAS},
        max_tokens=200,
        **PLACE,
    )
    call = answer.choices[0].message.tool_calls[0].function
    return {"tool": call.name, "city": json.loads(call.arguments)["city"]}


def embeddings() -> dict[str, Any]:
    answer = litellm.embedding(model="openai/tiny-embed", input=["the sea"], **PLACE)
    return {"size": len(answer.data[0]["embedding"])}


def vision() -> dict[str, Any]:
    shown = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
    ]
    return chat("seeing", [{"role": "user", "content": shown}])


def responses() -> dict[str, Any]:
    events = litellm.responses(
        model="openai/tiny-sea", input="Hello", max_output_tokens=20, stream=True, **PLACE
    )
    kind = "response.output_text.delta"
    return gathered(event.delta for event in events if event.type == kind)


def cancel() -> dict[str, Any]:
    chunks = litellm.completion(model="openai/slow", messages=HELLO, max_tokens=LONG, stream=True, **PLACE)
    next(iter(chunks))
    first()
    chunks.completion_stream.close()
    return {"text": ""}


def models() -> dict[str, Any]:
    found = litellm.get_valid_models(
        check_provider_endpoint=True, custom_llm_provider="openai", api_key=sys.argv[3], api_base=sys.argv[2]
    )
    return {"models": [name.removeprefix("openai/") for name in found]}


run(
    {
        "models": models,
        "chat": chat,
        "stream": stream,
        "tools": tools,
        "embeddings": embeddings,
        "vision": vision,
        "responses": responses,
        "cancel": cancel,
        "wrong key": chat,
        "unknown model": lambda: chat("nope"),
        "busy 429": chat,
        "busy 503": lambda: chat("late"),
        "broken": lambda: stream("slow", LONG),
        "queue": stream,
    }
)
