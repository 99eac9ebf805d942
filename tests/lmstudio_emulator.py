"""
An LM Studio without LM Studio: its HTTP API over a simulated `World`, with every trap that is known.

By hand: `python -m tests.lmstudio_emulator --port 1234`.  In tests: `async with emulator() as lm`.
Sources in the comments are named as in `backends.md` section 1.  A message that contains `[crash]` makes the
engine die in the middle of its answer.  The header `X-By` of a load or unload names who asks, for the log of
events; without it it is `rest`.
"""

import argparse
import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from aiohttp import web

from dmap.backends.lmstudio.section import LMStudioSection
from tests.lmstudio_forms import (
    HTML,
    NO_TOKEN,
    TOO_LONG,
    Form,
    message_events,
    message_of,
    native,
    native_events,
    native_result,
    openai,
    response_events,
    response_of,
)
from tests.lmstudio_world import SPECS, Instance, Knobs, Refusal, Spec, Traps, Unloaded, World

__all__ = ["Emulator", "Knobs", "Spec", "Traps", "emulator"]

LOAD_KEYS = {
    *("model", "context_length", "eval_batch_size", "flash_attention"),
    *("num_experts", "offload_kv_cache_to_gpu", "echo_load_config"),
}  # [DOC load.md]; `ttl`, `parallel`, `identifier`, `stream` are refused [OBS 0.4.21, 0.4.25]
CHAT_KEYS = {
    *("model", "input", "system_prompt", "integrations", "stream", "temperature", "top_p", "top_k", "min_p"),
    *("repeat_penalty", "max_output_tokens", "reasoning", "context_length", "store", "previous_response_id"),
}  # [DOC chat.md]; `ttl` is refused, contrary to the page on TTL [OBS 0.4.21]
Answer = Awaitable[web.StreamResponse]


class Emulator:
    """
    The server; `world` is its memory and its log of events.

    `start` listens (again on the same port after `kill`), `kill` cuts every connection and loses the memory,
    `stop` is the end.
    """

    def __init__(self, world: World, host: str = "127.0.0.1", port: int = 0) -> None:
        self.world = world
        self.host = host
        self.port = port
        self.requests: list[tuple[str, str, Any]] = []
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen."""
        app = web.Application(middlewares=[self._door], client_max_size=2**28)
        app.on_response_prepare.append(self._express)
        app.router.add_route("*", "/{path:.*}", self._serve)
        idle_s = self.world.knobs.idle_s if self.world.traps.idle_close else 75.0
        self._runner = web.AppRunner(
            app, handler_cancellation=True, keepalive_timeout=idle_s, access_log=None, shutdown_timeout=0
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.world.note("server_up")

    async def kill(self) -> None:
        """Die as by SIGKILL: every connection is cut, the memory is lost."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        await self._crash(runner)
        await runner.cleanup()

    async def crash(self) -> None:
        """Die as by SIGKILL, and be started again before anybody can ask."""
        assert self._runner is not None
        await self._crash(self._runner)

    async def _crash(self, runner: web.AppRunner) -> None:
        self.world.note("server_down")
        self.world.doom()
        for connection in list(runner.server.connections if runner.server else ()):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)
        await self.world.reset()

    stop = kill

    # The door

    @web.middleware
    async def _door(
        self, request: web.Request, handler: Callable[[web.Request], Answer]
    ) -> web.StreamResponse:
        token = self.world.knobs.api_token
        given = (request.headers.get("Authorization", ""), request.headers.get("x-api-key"))
        if token is not None and given[0] != f"Bearer {token}" and given[1] != token:
            error = {"type": "invalid_request", "code": "invalid_api_key", "message": NO_TOKEN}
            return web.json_response({"error": error}, status=401)  # [DOC authentication.mdx]
        try:
            return await handler(request)
        except _Said as said:
            return said.response

    async def _express(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Powered-By"] = "Express"
        if self.world.traps.idle_close and request.keep_alive:
            response.headers["Keep-Alive"] = "timeout=5"  # [#618 headers 2025-04; 2026-10-02]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await self._body(request)
        self.requests.append((request.method, request.path, body))
        family = request.path.split("/")[2:3]
        gone = (family == ["v1"] and not self.world.traps.native) or (
            family == ["v0"] and not self.world.traps.v0
        )
        route = None if request.path.startswith("/api/") and gone else self._route(request)
        if route is None:
            return self._unexpected(request)
        return await route(request, body)

    def _route(self, request: web.Request) -> Callable[[web.Request, Any], Answer] | None:
        if request.method == "GET" and request.path.startswith("/api/v0/models/"):
            return self._v0_model  # with `/` or `%2F` in the id, both answer [OBS 0.4.23]
        table: Mapping[tuple[str, str], Callable[[web.Request, Any], Answer]] = {
            ("GET", "/lmstudio-greeting"): self._greeting,
            ("GET", "/api/v1/models"): self._v1_models,
            ("POST", "/api/v1/models/load"): self._load,
            ("POST", "/api/v1/models/unload"): self._unload,
            ("POST", "/api/v1/chat"): self._native_chat,
            ("GET", "/api/v0/models"): self._v0_models,
            ("GET", "/v1/models"): self._models,
            **{("POST", f"{root}/chat/completions"): self._chat for root in ("/v1", "/api/v0")},
            **{("POST", f"{root}/completions"): self._chat for root in ("/v1", "/api/v0")},
            **{("POST", f"{root}/embeddings"): self._embed for root in ("/v1", "/api/v0")},
            ("POST", "/v1/responses"): self._responses,
            ("POST", "/v1/messages"): self._messages,
        }
        return table.get((request.method, request.path))

    async def _body(self, request: web.Request) -> Any:
        if request.method != "POST":
            return None
        if request.content_type != "application/json":
            raise _Said(415, "Unsupported Media Type")  # body-parser takes JSON only [OBS 1.1.0]
        try:
            return json.loads(await request.read())
        except ValueError:
            raise _Said(400, native("Invalid JSON", "invalid_request")) from None

    def _unexpected(self, request: web.Request) -> web.Response:
        words = f"Unexpected endpoint or method. ({request.method} {request.path})"
        if self.world.traps.unknown_path_200:
            return web.json_response({"error": words})  # a string, "Returning 200 anyway" [#2085, 0.4.17]
        return web.Response(text="Unexpected endpoint or method", status=404)  # [OBS 0.4.23, 1.1.0]

    async def _greeting(self, request: web.Request, body: Any) -> web.Response:
        return web.json_response({"lmstudio": True})

    # Lists

    async def _v1_models(self, request: web.Request, body: Any) -> web.Response:
        return web.json_response({"models": [self._v1(spec) for spec in self.world.specs.values()]})

    def _v1(self, spec: Spec) -> dict[str, Any]:
        listed: dict[str, Any] = {
            "type": "embedding" if spec.embedding else "llm",  # v0 says `embeddings`
            "publisher": spec.key.partition("/")[0],
            "key": spec.key,
            "display_name": spec.key,
            "quantization": {"name": spec.quant, "bits_per_weight": 4},
            "size_bytes": spec.size_bytes,  # on disk, not in memory
            "params_string": None,
            "loaded_instances": [
                {"id": one.id, "config": self._config(one)} for one in self.world.listed(spec)
            ],  # `id` and `config` and nothing else: no TTL, no state [OBS 0.4.21, 0.4.25]
            "max_context_length": spec.max_context,
            "format": "gguf",
            "description": None,
        }
        if not spec.embedding:  # absent on embeddings [DOC list.md]
            listed["architecture"] = spec.key.rpartition("/")[2].partition("-")[0]
            listed["capabilities"] = {"vision": spec.vision, "trained_for_tool_use": True}
            listed["variants"] = [spec.variant]
            listed["selected_variant"] = spec.variant
        return listed

    def _config(self, instance: Instance) -> dict[str, Any]:
        parallel = {} if instance.spec.embedding else {"parallel": self.world.knobs.parallel}
        return {**instance.config, "eval_batch_size": 512, **parallel, "reasoning_budget_message": ""}

    async def _v0_models(self, request: web.Request, body: Any) -> web.Response:
        if self.world.html_due:  # one HTML 500 right when a load began, 1 of 79 probes [OBS 0.4.23]
            self.world.html_due = False
            return web.Response(text=HTML, status=500, content_type="text/html")
        return web.json_response({"object": "list", "data": self._v0_list()})

    async def _v0_model(self, request: web.Request, body: Any) -> web.Response:
        wanted = request.path.removeprefix("/api/v0/models/")
        for listed in self._v0_list():
            if listed["id"] == wanted:
                return web.json_response(listed)
        raise _Said(404, native(f"Model {wanted!r} not found", "model_not_found"))

    def _v0_list(self) -> list[dict[str, Any]]:
        return [
            self._v0(spec, instance)
            for spec in self.world.specs.values()
            for instance in (*self.world.of(spec), *self.world.lagging(spec)) or (None,)
        ]

    def _v0(self, spec: Spec, instance: Instance | None) -> dict[str, Any]:
        listed = {
            "id": instance.id if instance else spec.key,
            "object": "model",
            "type": "embeddings" if spec.embedding else "vlm" if spec.vision else "llm",
            "publisher": spec.key.partition("/")[0],
            "arch": "any",
            "compatibility_type": "gguf",
            "quantization": spec.quant,
            "state": self.world.v0_state(instance) if instance else "not-loaded",
            "max_context_length": spec.max_context,
        }
        if listed["state"] == "loaded" and instance is not None:  # only then [OBS 1.1.7]
            listed["loaded_context_length"] = instance.config["context_length"]
        return listed

    async def _models(self, request: web.Request, body: Any) -> web.Response:
        """With JIT all that is on disk, without only what is loaded [DOC headless.md]."""
        on_disk = list(self.world.specs) if self.world.traps.jit else []
        loaded = [one.id for one in self.world.instances.values() if one.answers]
        ids = dict.fromkeys((*on_disk, *loaded))  # a second instance shows as `key:2` [lmstudio-js #180]
        entries = [{"id": id, "object": "model", "owned_by": "organization_owner"} for id in ids]
        return web.json_response({"data": entries, "object": "list"})

    # Loads and unloads

    async def _load(self, request: web.Request, body: Any) -> web.Response:
        """One JSON body at the end of the load, no progress [OBS 0.4.23]."""
        self._check_keys(body, LOAD_KEYS)
        if not isinstance(body.get("model"), str):
            raise _Said(400, native("'model' is required", "invalid_request", "missing_required_parameter"))
        spec = self.world.spec_of(body["model"])
        if spec is None:
            raise _Said(404, native(f"Invalid model identifier {body['model']!r}", "model_not_found"))
        config = {name: body[name] for name in LOAD_KEYS - {"model", "echo_load_config"} if name in body}
        began = self.world.now()
        try:
            instance = await self.world.load(spec, config, by=_asker(request))
        except Refusal as refusal:
            raise _Said(*self._load_failed(spec, refusal)) from None
        answer = {
            "type": "embedding" if spec.embedding else "llm",
            "instance_id": instance.id,
            "load_time_seconds": round(self.world.now() - began, 3),
            "status": "loaded",
        }
        echo = (
            {"load_config": {**instance.config, "eval_batch_size": 512}}
            if body.get("echo_load_config")
            else {}
        )
        return web.json_response({**answer, **echo})

    def _load_failed(self, spec: Spec, refusal: Refusal) -> tuple[int, Any]:
        if "canceled" in refusal.message:  # [2026-08-17], seen on the OpenAI routes; assumed for this one
            words = f'Failed to load model "{spec.key}". {refusal.message}'
            return 400, openai(words)
        words = f"Failed to load LLM '{spec.key}': {refusal.message}"
        return 500, {"error": {"type": "model_load_failed", "message": words}}  # no code, no param

    async def _unload(self, request: web.Request, body: Any) -> web.Response:
        self._check_keys(body, {"instance_id"})  # `model` is rejected [OBS 0.4.23]
        id = body.get("instance_id")
        try:
            self.world.unload(str(id), _asker(request))
        except Refusal as refusal:  # the status for an unknown id is UNCONFIRMED
            missing = refusal.kind == "not_found"
            kind = "model_not_found" if missing else "internal_error"
            raise _Said(404 if missing else 500, native(refusal.message, kind)) from None
        return web.json_response({"instance_id": id})

    def _check_keys(self, body: Any, known: set[str]) -> None:
        unknown = sorted(set(body) - known) if isinstance(body, dict) else ["(body)"]
        if unknown and self.world.traps.closed_schema:
            told = ", ".join(map(repr, unknown))
            words = f"Unrecognized key(s) in object: {told}"
            raise _Said(400, native(words, "invalid_request", "unrecognized_keys"))

    # Inference

    async def _instance(self, body: Any, *, natively: bool = False, embedding: bool = False) -> Instance:
        """Find who answers; an error has the form of its family."""
        ttl = body.get("ttl")  # "abc" and -5 are ignored without a word [OBS 0.4.25]
        ttl_s = float(ttl) if isinstance(ttl, int) and ttl > 0 else None
        try:
            return await self.world.find(str(body.get("model", "")), embedding=embedding, ttl_s=ttl_s)
        except Refusal as refusal:
            raise _Said(*_refused(refusal, natively)) from None

    def _check_length(self, instance: Instance, text: str, *, natively: bool = False) -> None:
        if len(text.split()) <= instance.config["context_length"]:
            return
        if natively:  # [OBS 0.4.25 M063]: 500 here, 400 with a string there
            raise _Said(500, {"error": {**native(TOO_LONG, "internal_error")["error"], "code": "unknown"}})
        raise _Said(400, {"error": TOO_LONG})

    async def _chat(self, request: web.Request, body: Any) -> web.StreamResponse:
        """`/v1/chat/completions`, `/v1/completions`, and their v0 forms with `stats`."""
        instance = await self._instance(body)
        text = json.dumps(body.get("messages") or body.get("prompt"))
        self._check_length(instance, text)
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        form = Form("chat" in request.path, instance, request.path.startswith("/api/v0"), usage)
        tokens = self._tokens(instance, body, text, body.get("max_tokens"))
        if body.get("stream"):
            return await self._stream(request, form.records(tokens))
        try:
            words = [token async for token in tokens]
        except Unloaded as why:
            if self.world.traps.cut_resets and request.transport is not None:
                request.transport.abort()
            raise _Said(400, {"error": str(why)}) from None  # exact form UNCONFIRMED
        return web.json_response(form.whole(words))

    def _tokens(self, instance: Instance, body: Any, text: str, most: Any) -> AsyncGenerator[str]:
        count = most if isinstance(most, int) and most > 0 else self.world.knobs.tokens
        tokens = self.world.generate(instance, str(body.get("model")), count)
        return self._crashing(instance, tokens, count) if "[crash]" in text else tokens

    async def _crashing(
        self, instance: Instance, tokens: AsyncGenerator[str], count: int
    ) -> AsyncGenerator[str]:
        async with contextlib.aclosing(tokens):
            left = count // 2
            async for token in tokens:
                yield token
                left -= 1
                if left == 0 and instance.answers:
                    self.world.crash(instance.id)

    async def _stream(self, request: web.Request, records: AsyncGenerator[bytes]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        async with contextlib.aclosing(records):
            await response.prepare(request)
            async for record in records:
                await response.write(record)  # the prediction stops when the socket closes [#492]
        await response.write_eof()
        return response

    async def _embed(self, request: web.Request, body: Any) -> web.Response:
        instance = await self._instance(body, embedding=True)
        given = body.get("input")
        inputs = given if isinstance(given, list) else [given]
        await _collected(self.world.generate(instance, str(body.get("model")), 1))
        data = [
            {"object": "embedding", "index": index, "embedding": [float(len(str(one))), 0.5]}
            for index, one in enumerate(inputs)
        ]  # more than `context_length` tokens are dropped without a word, usage is 0 [OBS 0.4.25]
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        return web.json_response({"object": "list", "data": data, "model": instance.id, "usage": usage})

    async def _native_chat(self, request: web.Request, body: Any) -> web.StreamResponse:
        self._check_keys(body, CHAT_KEYS)
        instance = await self._instance(body, natively=True)
        text = json.dumps(body.get("input"))
        self._check_length(instance, text, natively=True)
        tokens = self._tokens(instance, body, text, body.get("max_output_tokens"))
        if body.get("stream"):
            return await self._stream(request, native_events(instance, tokens))
        return web.json_response(native_result(instance, await _collected(tokens)))

    async def _responses(self, request: web.Request, body: Any) -> web.StreamResponse:
        instance = await self._instance({**body, "ttl": None})  # `ttl` is taken and ignored [OBS 0.4.25]
        text = json.dumps(body.get("input"))
        self._check_length(instance, text, natively=True)
        tokens = self._tokens(instance, body, text, body.get("max_output_tokens"))
        if body.get("stream"):
            return await self._stream(request, response_events(instance, tokens))
        return web.json_response(response_of(instance, await _collected(tokens)))

    async def _messages(self, request: web.Request, body: Any) -> web.StreamResponse:
        instance = await self._instance(body)
        tokens = self._tokens(instance, body, json.dumps(body.get("messages")), body.get("max_tokens"))
        if body.get("stream"):
            return await self._stream(request, message_events(instance, tokens))
        return web.json_response(message_of(instance, await _collected(tokens)))


class _Said(Exception):
    """An error answer, made deep inside."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status)
        self.response: web.Response
        if isinstance(body, str):
            self.response = web.Response(text=body, status=status)
        else:
            self.response = web.json_response(body, status=status)


async def _collected(tokens: AsyncGenerator[str]) -> list[str]:
    """Return the words of an answer that is not streamed; how a crash is told there is UNCONFIRMED."""
    try:
        return [token async for token in tokens]
    except Unloaded as why:
        raise _Said(500, native(str(why), "internal_error")) from None


def _asker(request: web.Request) -> str:
    return request.headers.get("X-By", "rest")


def _refused(refusal: Refusal, natively: bool) -> tuple[int, dict[str, Any]]:
    """Dress a refusal: 400 on the OpenAI routes, 404 or 500 on the native ones [section 1.8]."""
    if refusal.kind == "load_failed":
        key = refusal.spec.key if refusal.spec else ""
        words = f'Failed to load model "{key}". {refusal.message}'  # continue #10150, #12794
        return (500, native(words, "model_load_failed")) if natively else (400, openai(words))
    if natively:
        return 404, native(refusal.message, "model_not_found")
    return 400, openai(refusal.message, "model_not_found" if refusal.kind == "not_found" else None)


def section(url: str, **given: Any) -> LMStudioSection:
    """The section of a backend for the LM Studio at *url*."""
    return LMStudioSection(kind="lmstudio", device="gpu0", url=url, **given)


@contextlib.asynccontextmanager
async def emulator(
    traps: Traps | None = None, knobs: Knobs | None = None, specs: tuple[Spec, ...] = SPECS, port: int = 0
) -> AsyncIterator[Emulator]:
    """Run an emulator inside the context."""
    lm = Emulator(World(specs, traps, knobs), port=port)
    await lm.start()
    try:
        yield lm
    finally:
        await lm.stop()


async def _main(arguments: argparse.Namespace) -> None:
    knobs = replace(
        Knobs(),
        load_s=arguments.load_s,
        load_gb_s=arguments.load_gb_s,
        token_s=arguments.token_s,
        tokens=arguments.tokens,
        api_token=arguments.token,
    )
    traps = replace(Traps(), **dict.fromkeys(arguments.without, False))
    async with emulator(traps, knobs, port=arguments.port) as lm:
        logging.info("an emulated LM Studio answers at %s", lm.url)
        lm.world.told = lambda event: logging.info("%s", json.dumps(event))
        await asyncio.Event().wait()


def main() -> None:
    """Run an emulator until it is interrupted, telling its events."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=1234)
    parser.add_argument("--load-s", type=float, default=3.0)
    parser.add_argument("--load-gb-s", type=float, default=0.0, help="on top, for each 10^9 bytes")
    parser.add_argument("--token-s", type=float, default=0.03)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--token", help="the API token that every request must bear")
    traps = sorted(Traps.__dataclass_fields__)
    parser.add_argument("--without", action="append", default=[], choices=traps, help="switch a trap off")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
