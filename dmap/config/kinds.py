"""The kinds of backends, as the section `backends` names them."""

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from dmap.config.section import Section
from dmap.config.types import Count, Integer, Name, Seconds, Token, url


class OpenAIBackend(Section):
    """A server that speaks OpenAI's API and cannot switch models."""

    kind: Literal["openai"]
    url: Annotated[str, AfterValidator(url)]
    api_key: Token | None = Field(default=None, repr=False)
    parallel: Count | None = None
    queue: Count = 1024
    wait_s: Seconds = 300
    lease_s: Seconds = 1800


class GGUFBackend(Section):
    """The embedded engine: a directory of GGUF files, each served by a llama.cpp child process."""

    kind: Literal["gguf"]
    path: Path
    device: Name
    parallel: Count = 4
    context_length: Integer = Field(default=4096, ge=128)
    threads: Count | None = None
    load_s: Seconds = 600

    @field_validator("path")
    @classmethod
    def _directory(cls, path: Path) -> Path:
        try:
            found = path.is_dir()
        except OSError as exc:
            raise ValueError(f"{path} cannot be looked at: {exc.strerror}") from exc
        if not found:
            raise ValueError(f"{path} is not a directory")
        return path


class LMStudioBackend(Section):
    """An LM Studio of 0.4.0 or later, whose models dmap loads and unloads over its REST API."""

    kind: Literal["lmstudio"]
    url: Annotated[str, AfterValidator(url)]
    device: Name
    api_key: Token | None = Field(default=None, repr=False)
    parallel: Count | None = None
    load_s: Seconds = 600
    lms: Path | None = None

    @field_validator("lms")
    @classmethod
    def _command(cls, lms: Path | None, so_far: ValidationInfo) -> Path | None:
        """Refuse what is no program, and a server it cannot be sent to: it takes a host and a port."""
        if lms is None:
            return None
        if not (os.path.isfile(lms) and os.access(lms, os.X_OK)):
            raise ValueError(f"{lms} is not a file that can be run")
        parts = urlsplit(so_far.data.get("url", "http://h"))
        if parts.scheme != "http" or ":" in (parts.hostname or "") or parts.path not in ("", "/v1"):
            raise ValueError("lms reaches only http://HOST:PORT, without a path; HOST no IPv6 address")
        return lms


SWITCHING = (GGUFBackend, LMStudioBackend)
"""The kinds whose residents dmap decides; only these have a device."""

BackendConfig = Annotated[OpenAIBackend | GGUFBackend | LMStudioBackend, Field(discriminator="kind")]
