"""A model with eyes, for real: the embedded engine answers about an image, in nonsense."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI

from tests.models import SPECS, subjects
from tests.projectors import make_projector
from tests.test_retries import told

RED = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mP8z4AdMDEMKQkAzUEBD7t4NqoAAAAASUVORK5CYII="
"""A picture of 8 by 8 in one colour, as PNG."""
PICTURE = f"data:image/png;base64,{RED}"


def ask(*images: str) -> Any:
    """Return messages with *images*."""
    shown = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    return [{"role": "user", "content": [{"type": "text", "text": "what is this"}, *shown]}]


@pytest.fixture
async def engine(start: Any, models: Path, tmp_path: Path) -> Any:
    """A daemon over a folder with two models; the second has a projector beside it."""
    for place, model in (("blind", "tiny-kitchen"), ("seeing", "tiny-sea")):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"{model}.gguf").symlink_to(models / f"{model}.gguf")
    make_projector(tmp_path / "seeing" / "mmproj-f32.gguf", SPECS["tiny-sea"].width)
    return await start(
        f"""
        devices: {{gpu0: {{cooldown_s: 0}}}}
        backends: {{engine: {{kind: gguf, path: {tmp_path}, device: gpu0, threads: 1}}}}
        """
    )


@pytest.fixture
async def client(engine: Any) -> AsyncGenerator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{engine.url}/v1", api_key="none", max_retries=0, timeout=100) as client:
        yield client


async def test_an_image_is_answered(client: AsyncOpenAI) -> None:
    """OpenAI's client asks about an image; the engine reads it, and the model answers in its own words."""
    plain = await client.chat.completions.create(model="tiny-sea", messages=ask(), max_tokens=30)
    shown = await client.chat.completions.create(model="tiny-sea", messages=ask(PICTURE), max_tokens=30)

    assert subjects(shown.choices[0].message.content) == {"sea"}
    assert plain.usage is not None and shown.usage is not None
    assert shown.usage.prompt_tokens - plain.usage.prompt_tokens >= 4


async def test_a_response_may_be_about_an_image(client: AsyncOpenAI) -> None:
    """OpenAI's newer API says it in other words."""
    parts: Any = [{"type": "input_image", "image_url": PICTURE, "detail": "auto"}]
    answer = await client.responses.create(
        model="tiny-sea", input=[{"role": "user", "content": parts}], max_output_tokens=30
    )

    assert subjects(answer.output_text) == {"sea"}


async def test_a_blind_model_is_not_loaded_for_an_image(engine: Any, client: AsyncOpenAI) -> None:
    """An image for a model without a projector is refused at once: nothing is queued, nothing loaded."""
    with pytest.raises(openai.BadRequestError, match="'blind/tiny-kitchen' takes no images"):
        await client.chat.completions.create(model="tiny-kitchen", messages=ask(PICTURE))

    assert told(engine, "request.queued") == told(engine, "switch.started") == []


async def test_the_lists_show_who_sees(engine: Any, models: Path) -> None:
    """OpenAI's list and both of LM Studio's say it, and the size is that of both files."""
    async with aiohttp.ClientSession(engine.url) as session:
        plain = await listed(session, "/v1/models")
        v0, v1 = await listed(session, "/api/v0/models"), await listed(session, "/api/v1/models")

    assert [each["id"] for each in plain["data"]] == ["blind/tiny-kitchen", "seeing/tiny-sea"]
    assert [each["vision"] for each in plain["data"]] == [False, True]
    assert [each["type"] for each in v0["data"]] == ["llm", "vlm"]
    assert [each["capabilities"] for each in v1["models"]] == [{"vision": False}, {"vision": True}]
    assert v1["models"][1]["size_bytes"] > (models / "tiny-sea.gguf").stat().st_size + 100_000


async def listed(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as answer:
        return await answer.json()
