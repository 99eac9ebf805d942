"""The section of a server that speaks OpenAI's API."""

from typing import Literal

from pydantic import Field

from dmap.backends.sections import PassingSection
from dmap.sections.types import Token, Url


class OpenAISection(PassingSection):
    """A server that speaks OpenAI's API and cannot switch models."""

    kind: Literal["openai"]
    url: Url
    api_key: Token | None = Field(default=None, repr=False)
