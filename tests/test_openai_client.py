"""OpenAI's own Python client against a running daemon with real engines behind it."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.fakes import HERE_S, soon
from tests.models import subjects, tool_call
from tests.process import Process, daemon

CONFIG = """
devices:
  gpu0: {{max_models: 1, cooldown_s: 0}}
backends:
  engine: {{kind: gguf, path: {models}, device: gpu0, parallel: 4, context_length: 2048, threads: 1}}
models:
  tiny-sea: {{aliases: [gpt-4o-mini], defaults: {{max_tokens: 7}}}}
"""
HELLO: Any = [{"role": "user", "content": "Hello"}]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(models: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Process]:
    """Run a daemon over the small models, one resident at a time, for all tests of a worker."""
    async with daemon(tmp_path_factory.mktemp("daemon"), CONFIG.format(models=models)) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(running: Process) -> AsyncGenerator[AsyncOpenAI]:
    """Make a client that does not retry, so that what it raises is what dmap said; a crowd takes a while."""
    url = f"{running.url}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=100) as client:
        yield client


class TestAnswers:
    async def test_both_models_answer_in_their_own_words(self, client: AsyncOpenAI) -> None:
        """The model that was asked for is the one that answers."""
        sea = await client.chat.completions.create(model="tiny-sea", messages=HELLO, max_tokens=30)
        kitchen = await client.chat.completions.create(model="tiny-kitchen", messages=HELLO, max_tokens=30)

        assert (sea.model, kitchen.model) == ("tiny-sea", "tiny-kitchen")
        assert subjects(sea.choices[0].message.content) == {"sea"}
        assert subjects(kitchen.choices[0].message.content) == {"kitchen"}

    async def test_stream(self, client: AsyncOpenAI) -> None:
        """A stream brings each token, the finish reason and, if asked for, the usage."""
        stream = await client.chat.completions.create(
            model="tiny-sea",
            messages=HELLO,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )

        chunks = [chunk async for chunk in stream]

        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 12
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"

    async def test_alias_and_default(self, client: AsyncOpenAI) -> None:
        """An alias reaches its model, and a default of the file applies where the request has no value."""
        answer = await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)

        assert answer.model == "tiny-sea"
        assert answer.usage is not None and answer.usage.completion_tokens == 7

    async def test_tool_call(self, client: AsyncOpenAI) -> None:
        """A streamed tool call arrives whole."""
        stream = await client.chat.completions.create(
            model="tiny-sea",
            messages=HELLO,
            stream=True,
            max_tokens=200,
            extra_body=tool_call("tiny-sea"),
        )

        calls = [call async for c in stream if c.choices for call in c.choices[0].delta.tool_calls or []]

        assert calls[0].function is not None and calls[0].function.name == "weather"
        arguments = json.loads("".join(c.function.arguments or "" for c in calls if c.function))
        assert arguments["city"] in ("Rome", "Oslo")

    async def test_json_schema(self, client: AsyncOpenAI) -> None:
        """An answer bound to a JSON schema keeps to it."""
        schema: Any = {
            "type": "json_schema",
            "json_schema": {
                "name": "port",
                "schema": {
                    "type": "object",
                    "properties": {"port": {"enum": ["Bergen", "Porto"]}},
                    "required": ["port"],
                    "additionalProperties": False,
                },
            },
        }

        answer = await client.chat.completions.create(
            model="tiny-sea", messages=HELLO, response_format=schema, max_tokens=100
        )

        assert json.loads(answer.choices[0].message.content or "")["port"] in ("Bergen", "Porto")

    async def test_embeddings(self, client: AsyncOpenAI) -> None:
        """Embeddings come from the embedding model, with a number per dimension."""
        answer = await client.embeddings.create(model="tiny-embed", input=["the sea", "the pan"])

        assert [len(item.embedding) for item in answer.data] == [64, 64]

    async def test_completions_and_responses(self, client: AsyncOpenAI) -> None:
        """The older and the newer text routes work too, streamed and not."""
        text = await client.completions.create(model="tiny-kitchen", prompt="Take", max_tokens=5)
        events = [
            event.type
            async for event in await client.responses.create(
                model="tiny-kitchen", input="Hello", max_output_tokens=5, stream=True
            )
        ]

        assert text.choices[0].text
        assert (events[0], events[-1]) == ("response.created", "response.completed")

    async def test_tokens_are_counted(self, client: AsyncOpenAI) -> None:
        """The client learns how many tokens a prompt has: as many as the answer to it says that it had."""
        counted = await client.responses.input_tokens.count(model="tiny-sea", input="Hello there")
        answer = await client.responses.create(model="tiny-sea", input="Hello there", max_output_tokens=1)

        assert answer.usage is not None
        assert counted.input_tokens == answer.usage.input_tokens > 2

    async def test_list_of_models(self, client: AsyncOpenAI) -> None:
        """The list has every model and alias, and tells which is resident."""
        await client.chat.completions.create(model="tiny-sea", messages=HELLO, max_tokens=1)

        listed = {model.id: model.model_dump() for model in (await client.models.list()).data}

        assert {"tiny-sea", "gpt-4o-mini", "tiny-kitchen", "tiny-embed", "slow"} <= listed.keys()
        assert listed["tiny-sea"]["resident"] and not listed["tiny-kitchen"]["resident"]
        assert (await client.models.retrieve("tiny-sea")).model_dump()["context_length"] == 2048


class TestErrors:
    async def test_unknown_model(self, client: AsyncOpenAI) -> None:
        """An unknown model is NotFoundError, as OpenAI says it."""
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="nope", messages=HELLO)

        assert caught.value.code == "model_not_found"
        assert caught.value.request_id

    async def test_overlong_prompt(self, client: AsyncOpenAI) -> None:
        """A prompt over the context is BadRequestError that tells the context, also when streamed."""
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(
                model="tiny-sea", messages=[{"role": "user", "content": "sail " * 4000}], stream=True
            )

        assert "2048" in caught.value.message.replace(",", "")  # the engine's words, or dmap's

    async def test_cancel(self, client: AsyncOpenAI, running: Process) -> None:
        """A stream that is closed early frees its place: the log says so, and others go on."""
        stream = await client.chat.completions.create(
            model="slow", messages=HELLO, max_tokens=1500, stream=True
        )
        await anext(aiter(stream))
        await stream.close()

        other = await client.chat.completions.create(model="tiny-sea", messages=HELLO, max_tokens=3)

        assert other.model == "tiny-sea"
        await soon(lambda: any("outcome=client_left" in line for line in running.log), HERE_S)


class TestCrowds:
    async def test_64_streams_over_three_models(self, client: AsyncOpenAI) -> None:
        """64 streams at once for three models that do not fit together all end whole, with few switches."""
        names = ("tiny-sea", "tiny-kitchen", "tiny-brief")

        answers = await asyncio.gather(*(spoken(client, names[n % 3]) for n in range(64)))

        assert all(model == names[n % 3] for n, (model, _) in enumerate(answers))
        assert all(reason in ("length", "stop") for _, reason in answers)

    async def test_500_requests_at_once(self, client: AsyncOpenAI, running: Process) -> None:
        """500 requests at once for three models: none lost, none refused, each by its own model."""
        names = ("tiny-sea", "tiny-kitchen", "tiny-brief")
        before = switches(running)

        answers = await asyncio.gather(
            *(
                client.chat.completions.create(model=names[n % 3], messages=HELLO, max_tokens=4)
                for n in range(500)
            )
        )

        assert [answer.model for answer in answers] == [names[n % 3] for n in range(500)]
        assert switches(running) - before <= 12


def switches(running: Process) -> int:
    """Count the switches in the log."""
    return sum("dmap.gate switch" in line for line in running.log)


async def spoken(client: AsyncOpenAI, model: str) -> tuple[str, str | None]:
    """Read one stream to its end; return who spoke and why it stopped."""
    stream = await client.chat.completions.create(model=model, messages=HELLO, max_tokens=20, stream=True)
    last = [chunk async for chunk in stream if chunk.choices][-1]
    return last.model, last.choices[0].finish_reason
