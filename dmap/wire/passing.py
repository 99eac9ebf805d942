"""
Routes of /v1 that dmap does not know: which of them may go on as they are, and what their queries say.

A POST goes on unless its path has a word of control.  What a server keeps for its clients, such as files and
batches, can also be fetched and deleted.  Everything else is nobody's route.

Paths and queries go on in one spelling only: a server that decodes, folds or normalizes them finds what dmap
has found in them.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from dmap.errors import BadRequest
from dmap.wire.body import check_model
from dmap.wire.form import stem
from dmap.wire.guards import Need, needs_of

OF_ONE_MODEL = frozenset(
    f"/v1/{name}" for name in ("moderations", "tokenize", "detokenize", "score", "classify", "pooling")
)
"""Paths that have one model answer, the one named as `model`.  Any other may reach all models of a server."""

_KEPT = ("audio", "batches", "conversations", "files", "responses", "uploads", "vector_stores", "videos")
"""What OpenAI's API keeps for its clients, by the first step below /v1; of `audio` it is voices."""

_STEP = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"
_PATH = re.compile(rf"/v1(?:/{_STEP}){{1,8}}", re.ASCII)
_LONGEST_PATH = 256
_VERBS = re.compile("adapter|lora|shutdown|sleep|terminat|wake|weight|(?<!up)load")
"""
Parts of words that stand for control wherever they occur; OpenAI's `uploads` are files.

Known are /v1/load_lora_adapter and unload (vllm-project/vllm, entrypoints/serve/lora/api_router.py),
/v1/lora_adapter/load (vllm-project/aibrix, its LoRA client), /v1/model/load, /v1/lora/unload, /v1/download
and the like (theroyallab/tabbyAPI, endpoints/core/router.py), /v1/load and unload (lemonade-sdk/lemonade).
"""
_PARTS = "backend cache cluster deployment device engine instance internal model node server system worker"
"""
What a server is made of.

text-generation-webui has all control below /v1/internal, and stops all answers there (oobabooga's
extensions/openai/script.py); Xinference has /v1/cluster, /v1/workers and /v1/cache
(xorbitsai/inference, api/routers/admin.py).  In /v1/engines/NAME/completions, OpenAI's oldest form, and its
like a path names a model that nobody has checked.
"""
_ORDERS = (
    "abort activate apply clear control deactivate delete disable drain eject enable evict exit flush free "
    "install kill launch param pause pull purge push quit register registration release remove reset restart "
    "restore resume scale start stop switch uninstall unregister "
    "config option override prop setting slot template"
)
"""
What is ordered, and what then holds for everybody.

llama.cpp has /v1/chat/completions/control (tools/server/server.cpp), TabbyAPI /v1/template/switch and
/v1/sampling/override/unload, Lemonade /v1/pull, /v1/delete and /v1/install, Cortex /v1/hardware/activate.
"""
_RIGHTS = (
    "admin auth credential debug key license login mcp passthrough permission profile profiler proxy rpc"
)
"""Who may do what, and ways past dmap's own checks: tools, other hosts, the inside of the server."""
_CONTROL = frozenset(f"{_PARTS} {_ORDERS} {_RIGHTS} upstream user".split())

_words = re.compile(r"[A-Z]?[a-z]+|[A-Z]+").findall


class Query(NamedTuple):
    """What a query asks for: *model* is None if it names none; *needs* are what it must be permitted."""

    pairs: Sequence[tuple[str, str]] = ()
    model: str | None = None
    needs: Sequence[Need] = ()

    def written(self, model: str) -> str:
        """Write it for the server that calls its model *model*, with its `?`; nothing if it is empty."""
        pairs = [(name, model if name == "model" else value) for name, value in self.pairs]
        return f"?{urlencode(pairs)}" if pairs else ""


def reason_against(method: str, path: str, known: frozenset[str]) -> str | None:
    """
    Say why a request for *path*, as its client wrote it, is not passed on; None if it may be.

    *known* are the paths that dmap knows, which have no other spelling.
    """
    if len(path) > _LONGEST_PATH or not _PATH.fullmatch(path) or path.lower() in known:
        return "paths are taken literally"
    if path.startswith("/v1/v1/"):
        return "'/v1' is there twice"
    word = next(_controls(path), None)
    if word is not None:
        return f"{word!r} stands for control of a server, which is its owner's; it is not passed on"
    steps = path.split("/")[2:]
    if method == "POST" or (steps[0] in _KEPT and (method == "GET" or (method == "DELETE" and steps[1:]))):
        return None
    return f"of what dmap does not know it passes POST on, and GET and DELETE of {', '.join(_KEPT)}"


def _controls(path: str) -> Iterator[str]:
    """Yield the steps of *path* that stand for control; one with a digit is an id, which may hold words."""
    for step in path.split("/")[2:]:
        is_id = any(map(str.isdigit, step))
        words = () if is_id else (*_words(step), *re.split("[^a-z]+", step.lower()))
        named = {name.lower() for word in words for name in (word, word.removesuffix("s"))}
        if _VERBS.search(step.lower()) or named & _CONTROL:
            yield step


def read_query(text: str) -> Query:
    """
    Read the query *text*, without its `?`.

    Raises `BadRequest` for one that can be read in more than one way.
    """
    if not text:
        return Query()
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=64
        )
    except (ValueError, UnicodeDecodeError) as exc:
        raise BadRequest("the query of the URL is not name=value&name=value in UTF-8") from exc
    if not all(name and name.isprintable() and value.isprintable() for name, value in pairs):
        raise BadRequest("the query of the URL has a field without a name, or characters that cannot be seen")
    models = [(name, value) for name, value in pairs if stem(name).lower() == "model"]
    if len(models) > 1 or any(name != "model" for name, _ in models):
        raise BadRequest("give 'model' once", param="model")
    needs = [need for name, value in pairs for need in needs_of({stem(name): value})]
    return Query(pairs, check_model(models[0][1]) if models else None, needs)
