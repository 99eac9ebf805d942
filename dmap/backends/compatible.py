"""What servers with OpenAI's API have in common: words that they take, and how they list models."""

from collections.abc import Mapping
from typing import Any

from dmap.backends.ask import count, decoded, entries, is_name
from dmap.models import ModelInfo
from dmap.wire.dialects import Dialect
from dmap.wire.routes import KindWords

LIST_BYTES = 4 * 2**20

WORDS = KindWords(
    # llama.cpp's word and vLLM's; both servers pass over a word they do not know.
    sent={Dialect.CHAT: {"repeat_penalty": ("repeat_penalty", "repetition_penalty")}},
    read={Dialect.CHAT: ("max_completion_tokens", "n_predict", "reasoning")},
)


def listed(body: bytes) -> list[ModelInfo]:
    """Return the models in *body*, an answer to `GET /v1/models`.  Raises ValueError, RecursionError."""
    return [_info(item) for item in entries(decoded(body), "data") if is_name(item.get("id"))]


def _info(item: Mapping[str, Any]) -> ModelInfo:
    """Read one model; vLLM tells its context as `max_model_len`, llama-server in `meta`, dmap by name."""
    meta = item.get("meta")
    length = item.get("max_model_len") or item.get("context_length")
    length = length or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return ModelInfo(
        item["id"],
        resident=item.get("resident") is not False,
        context_length=count(length),
        embedding=item.get("embedding") is True,
    )
