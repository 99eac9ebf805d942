"""The section of a node, another dmap that answers what this one is asked."""

from collections.abc import Mapping
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from dmap.backends.sections import PassingSection
from dmap.sections.types import File, Token, Url, is_loopback

ELSEWHERE = frozenset(("device", "memory", "parallel", "queue", "wait_s"))
"""What other backends have and a node says in its own file: its queues are there."""


class NodeSection(PassingSection):
    """
    Another dmap, beside its own devices, at *url*; its *api_key* there has the scope `front`.

    *ca* has the certificates that its own is checked with, where the system's do not do.  With *insecure*
    keys and prompts may go there in plain text.
    """

    kind: Literal["node"] = "node"
    url: Url
    api_key: Token = Field(repr=False)
    ca: File | None = None
    insecure: bool = False

    @model_validator(mode="after")
    def _sealed(self) -> Self:
        for name in sorted(ELSEWHERE & self.model_fields_set):
            raise ValueError(f"{name}: is said in the node's own file")
        parts = urlsplit(self.url)
        if parts.scheme == "http" and not self.insecure and not is_loopback(parts.hostname or ""):
            raise ValueError("url: its key and all prompts would go in plain text; https, or insecure: true")
        return self

    def refuses(self, options: Mapping[str, Any]) -> dict[str, str]:
        """Refuse all: what is loaded how, is said in the node's own file."""
        return dict.fromkeys(options, "the node loads its models; say it in its configuration")
