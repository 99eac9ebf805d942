"""Captured bodies: few, short, and without what is nobody's business."""

import json

import pytest

from dmap.trip import Trip
from dmap.web.capture import KEPT_CHARACTERS, REQUESTS, Captures
from tests.test_debug import asked


def trip(id: str = "req_1") -> Trip:
    """A request that has just come."""
    return Trip(id=id, path="/v1/chat/completions", client="webui", arrived_at=0)


def kept(body: object) -> str:
    """Return what is kept of a body, given as JSON or as it is."""
    captures = Captures()
    captures.note(trip(), body if isinstance(body, bytes) else json.dumps(body).encode(), 1.0)
    return captures.told()[0]["body"]


class TestRedaction:
    @pytest.mark.parametrize(
        "name",
        ["authorization", "Authorization", "api_key", "apiKey", "api-key", "x-api-key", "OPENAI_API_KEY"]
        + ["access_token", "token", "password", "db.password", "client_secret", "Cookie", "credentials"],
    )
    def test_what_is_called_like_a_secret(self, name) -> None:
        """The string of a field that is called like a secret is not kept, however deep it lies."""
        body = {"tools": [{name: 'hush "hush" hush', "kind": "mcp"}], "model": "m"}

        assert json.loads(kept(body)) == {"tools": [{name: "***", "kind": "mcp"}], "model": "m"}

    def test_json_inside_a_string(self) -> None:
        """The arguments of a tool's call are JSON in a string, and no better a place for a secret."""
        body = {"arguments": json.dumps({"city": "Ulm", "token": "hush", "unit": "C"})}

        told = json.loads(json.loads(kept(body))["arguments"])

        assert told == {"city": "Ulm", "token": "***", "unit": "C"}

    def test_a_secret_that_is_cut(self) -> None:
        """A secret that the end of what is kept goes through is not kept."""
        assert kept(b'{"model": "m", "password": "hush hu') == '{"model": "m", "password": "***'

    @pytest.mark.parametrize("text", ["Bearer abcdef.12345", "Basic dXNlcjpwYXNz", "sk-abcdefgh12345"])
    def test_what_looks_like_a_credential(self, text) -> None:
        """What looks like a credential is not kept, wherever it is."""
        assert text.split()[-1].removeprefix("sk-") not in kept({"content": f"use {text} please"})

    @pytest.mark.parametrize(
        "body",
        [
            {"max_tokens": 5, "stop": ["token"], "messages": [{"role": "user", "content": "My password?"}]},
            {"content": "a/rather/long/path/" * 4, "token_ids": [1, 2, 3], "seed": None},
        ],
    )
    def test_what_is_no_secret(self, body) -> None:
        """Everything else is kept as it came."""
        assert json.loads(kept(body)) == body

    @pytest.mark.parametrize(
        ("value", "told"),
        [
            ("data:image/png;base64,iVBORw0KGgo=", "data:image/png;base64,(12 characters)"),
            ("data:image/png;base64," + "A" * 100_000, "data:image/png;base64,(100000 characters)"),
            ("UklGR" * 100, "(500 characters)"),
        ],
    )
    def test_base64(self, value, told) -> None:
        """Of images and sound only the length is kept, in a data: URL and bare."""
        assert json.loads(kept({"url": value, "after": "x"})) == {"url": told, "after": "x"}

    def test_what_is_not_text(self) -> None:
        """Bytes that are no UTF-8 are kept as well as can be."""
        assert kept(b"\xff{}") == "\ufffd{}"


class TestBounds:
    def test_the_oldest_go_first(self) -> None:
        """Only the last requests are kept."""
        captures = Captures()

        for number in range(REQUESTS + 2):
            captures.note(trip(str(number)), b"{}", 1.0)

        assert [one["id"] for one in captures.told()] == [str(at) for at in range(2, REQUESTS + 2)]

    @pytest.mark.parametrize(("size", "cut"), [(1000, False), (KEPT_CHARACTERS + 9, True), (9_000_000, True)])
    def test_a_long_body(self, size, cut) -> None:
        """Of a long body the beginning is kept, and that it was cut."""
        captures = Captures()
        body = b"word " * (size // 5)

        captures.note(trip(), body, 1.0)

        (one,) = captures.told()
        assert (one["size_bytes"], one["cut"]) == (len(body), cut)
        assert one["body"] == body[:KEPT_CHARACTERS].decode()

    def test_what_became_of_it(self) -> None:
        """A capture tells how its request ended, once it has."""
        captures, one = Captures(), trip()
        captures.note(one, b"{}", 1.0)
        before = captures.told()[0]

        one.status, one.outcome, one.reason = 502, "backend_broke", "it broke"

        after = captures.told()[0]
        assert (before["status"], before["outcome"]) == (None, None)
        assert (after["status"], after["outcome"], after["reason"]) == (502, "backend_broke", "it broke")


class TestPage:
    @pytest.mark.parametrize(("capture", "ids"), [("true", ["req_1"]), ("false", [])])
    async def test_only_where_it_is_on(self, start, backend, capture, ids) -> None:
        """`/debug/captures` shows bodies where `debug.capture` is on, and none where it is not."""
        proxy = await start(
            f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\ndebug: {{capture: {capture}}}"
        )
        proxy.parts.captures.note(trip(), b"{}", 1.0)

        told = await asked(proxy, "/debug/captures")

        assert (told["capture"], [one["id"] for one in told["captures"]]) == (capture == "true", ids)
