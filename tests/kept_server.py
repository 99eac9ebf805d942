"""
A small real server with what dmap does not know: moderations, tokens, files, batches, and some oddities.

`seen` has every request that reached it, as (method, path with query, headers, body); of a form no body.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

MODELS = ("guard-v1", "other")


class KeptServer:
    """The server at *url*; what clients have put there is in *files* and *batches*."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.files: dict[str, tuple[str, bytes]] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.hold: Callable[[], Awaitable[None]] | None = None

    @property
    def asked(self) -> list[str]:
        """What was asked, but for the list of models: method and path."""
        return [f"{method} {path}" for method, path, _, _ in self.seen if path != "/v1/models"]

    @property
    def last(self) -> tuple[dict[str, str], bytes]:
        """Headers and body of the last request."""
        return self.seen[-1][2], self.seen[-1][3]

    @web.middleware
    async def note(self, request: web.Request, handler: Any) -> web.StreamResponse:
        is_form = request.content_type.startswith("multipart/")
        body = b"" if is_form else await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((request.method, request.raw_path, headers, body))
        if self.hold is not None and request.method == "POST":
            await self.hold()
        response: web.StreamResponse = await handler(request)
        return response

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name} for name in MODELS]})

    async def moderations(self, request: web.Request) -> web.Response:
        asked = await request.json()
        results = [{"flagged": False, "categories": {}, "category_scores": {}}]
        return web.json_response({"id": "modr-1", "model": asked.get("model", "default"), "results": results})

    async def tokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"tokens": [*(await request.json())["prompt"].encode()]})

    async def put(self, request: web.Request) -> web.Response:
        form = await request.post()
        part: Any = form["file"]
        name = f"file-{len(self.files)}"
        self.files[name] = (part.filename, part.file.read())
        return web.json_response(self._file(name))

    def _file(self, name: str) -> dict[str, Any]:
        filename, content = self.files[name]
        about = {"filename": filename, "bytes": len(content), "purpose": "batch", "status": "processed"}
        return {"id": name, "object": "file", "created_at": 1, **about}

    async def list_files(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"object": "list", "data": [self._file(name) for name in self.files], "has_more": False}
        )

    async def get_file(self, request: web.Request) -> web.Response:
        return web.json_response(self._file(request.match_info["id"]))

    async def content(self, request: web.Request) -> web.Response:
        filename, content = self.files[request.match_info["id"]]
        kind = {"html": "text/html", "json": "application/json"}.get(
            filename.rpartition(".")[2], "text/plain"
        )
        return web.Response(body=content, content_type=kind)

    async def delete(self, request: web.Request) -> web.Response:
        self.files.pop(request.match_info["id"], None)
        return web.json_response({"id": request.match_info["id"], "object": "file", "deleted": True})

    async def batch(self, request: web.Request) -> web.Response:
        asked, name = await request.json(), f"batch_{len(self.batches)}"
        about = {"object": "batch", "created_at": 1, "status": "validating"}
        self.batches[name] = {"id": name, **about, **asked}
        return web.json_response(self.batches[name])

    async def get_batch(self, request: web.Request) -> web.Response:
        return web.json_response(self.batches[request.match_info["id"]])

    async def cancel(self, request: web.Request) -> web.Response:
        self.batches[request.match_info["id"]]["status"] = "cancelling"
        return web.json_response(self.batches[request.match_info["id"]])

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"event: one\ndata: 1\n\n")
        if (await request.json()).get("breaks"):
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(b"event: two\ndata: 2\n\n")
        return response

    async def sound(self, _: web.Request) -> web.Response:
        return web.Response(body=bytes(range(256)) * 1000, content_type="audio/wav")

    async def nothing(self, _: web.Request) -> web.Response:
        return web.Response(status=204)

    async def page(self, _: web.Request) -> web.Response:
        return web.Response(text="<html>not here</html>", content_type="text/html")

    async def elsewhere(self, _: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect("http://10.0.0.1/secret")

    async def made(self, _: web.Request) -> web.Response:
        return web.json_response({"id": "x"}, status=201, headers={"Location": "http://10.0.0.1/v1/made/x"})

    async def unprocessable(self, _: web.Request) -> web.Response:
        return web.json_response({"detail": [{"msg": "prompt is missing"}]}, status=422)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.note], client_max_size=2**26)
        app.router.add_get("/v1/models", self.models)
        for path, handler in (
            ("moderations", self.moderations),
            ("tokenize", self.tokenize),
            ("files", self.put),
            ("batches", self.batch),
            ("batches/{id}/cancel", self.cancel),
            ("stream", self.stream),
            ("sound", self.sound),
            ("nothing", self.nothing),
            ("page", self.page),
            ("elsewhere", self.elsewhere),
            ("made", self.made),
            ("unprocessable", self.unprocessable),
        ):
            app.router.add_post(f"/v1/{path}", handler)
        app.router.add_get("/v1/files", self.list_files)
        app.router.add_get("/v1/files/{id}", self.get_file)
        app.router.add_get("/v1/files/{id}/content", self.content)
        app.router.add_delete("/v1/files/{id}", self.delete)
        app.router.add_get("/v1/batches/{id}", self.get_batch)
        return app


@asynccontextmanager
async def kept_server() -> AsyncGenerator[KeptServer]:
    """Run a `KeptServer` on a free port."""
    server = KeptServer()
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
