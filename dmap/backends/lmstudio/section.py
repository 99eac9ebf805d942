"""The section of an LM Studio."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from dmap.backends.sections import SwitchingSection
from dmap.sections.types import File, Token, Url

FLAGS: Mapping[str, str] = {
    "context_length": "--context-length",
    "gpu": "--gpu",
    "parallel": "--parallel",
    "ttl_s": "--ttl",
    "identifier": "--identifier",
}
"""All that `lms load` takes of a load's options; it has no words for the other options of REST."""

BY_LMS = frozenset(FLAGS) - {"context_length"}
"""What only `lms` can do: REST refuses these with 400 (bug-tracker #2024)."""

BY_REST = frozenset(
    ("context_length", "eval_batch_size", "flash_attention", "num_experts", "offload_kv_cache_to_gpu")
)
"""All that a load takes over REST; any other key is refused with 400 (bug-tracker #2024)."""


class LMStudioSection(SwitchingSection):
    """An LM Studio of 0.4.0 or later, whose models dmap loads and unloads over its REST API."""

    takes_names: ClassVar[bool] = False

    kind: Literal["lmstudio"]
    url: Url
    api_key: Token | None = Field(default=None, repr=False)
    lms: File | None = None

    @property
    def switched_at(self) -> str:
        """*url*."""
        return self.url

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

    def refuses(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Refuse what neither REST nor `lms` takes, or what the one that some option needs does not take."""
        by_lms = goes_by_lms(options) and self.lms is not None
        known = FLAGS if by_lms else BY_REST
        return {name: self._why(name, by_lms) for name in options if name not in known}

    def _why(self, option: str, by_lms: bool) -> str:
        if option in BY_LMS:
            return "LM Studio's REST API has no such option; its lms command has, so set lms for this backend"
        if by_lms and option in BY_REST:
            return "LM Studio takes this over REST only, and not beside an option that needs lms"
        return "LM Studio cannot be told this"


def goes_by_lms(options: Mapping[str, Any]) -> bool:
    """Tell whether one of *options* is beyond REST."""
    return not BY_LMS.isdisjoint(options)
