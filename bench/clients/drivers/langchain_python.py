"""LangChain's models for OpenAI's API, `langchain-openai`."""

import sys
from typing import Any

from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from said import BIAS, CITY, LONG, PICTURE, first, gathered, run

PLACE: Any = {"base_url": f"{sys.argv[2]}/v1", "api_key": sys.argv[3]}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "of a city", "parameters": CITY},
}


def of(model: str, tokens: int = 20, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model=model, extra_body={"max_tokens": tokens, **options}, **PLACE)


def chat(model: str = "tiny-sea", prompt: Any = "Hello") -> dict[str, Any]:
    return {"text": of(model).invoke(prompt).content}


def stream(model: str = "tiny-sea", tokens: int = 20) -> dict[str, Any]:
    return gathered(str(chunk.content) for chunk in of(model, tokens).stream("Hello"))


def tools() -> dict[str, Any]:
    bound = of("tiny-sea", 200, logit_bias=BIAS).bind_tools(
        [WEATHER], tool_choice="required", parallel_tool_calls=False
    )
    call = bound.invoke("Hello").tool_calls[0]
    return {"tool": call["name"], "city": call["args"]["city"]}


def embeddings() -> dict[str, Any]:
    # Its default sends the numbers of OpenAI's own tokens instead of the text.
    made = OpenAIEmbeddings(model="tiny-embed", check_embedding_ctx_length=False, **PLACE)
    return {"size": len(made.embed_query("the sea"))}


def vision() -> dict[str, Any]:
    shown = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
    ]
    return chat("seeing", [{"role": "user", "content": shown}])


def responses() -> dict[str, Any]:
    model = ChatOpenAI(model="tiny-sea", use_responses_api=True, max_tokens=20, **PLACE)
    return gathered(chunk.text for chunk in model.stream("Hello"))


def cancel() -> dict[str, Any]:
    answer = of("slow", LONG).stream("Hello")
    next(answer)
    first()
    answer.close()
    return {"text": ""}


run(
    {
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
