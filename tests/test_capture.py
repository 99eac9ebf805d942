"""Captured bodies: few, short, and without what is nobody's business."""

import json
from functools import reduce

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmap.record import RequestRecord
from dmap.web.capture import (
    EXAMINED_BYTES,
    EXAMINED_VALUES,
    KEPT_CHARACTERS,
    REQUESTS,
    UNREADABLE,
    Captures,
)
from tests.test_debug import asked

NAMES = ["authorization", "Authorization", "api_key", "apiKey", "api-key", "x-api-key", "OPENAI_API_KEY"]
NAMES += [
    "access_token",
    "token",
    "tokens",
    "password",
    "db.password",
    "client_secret",
    "Cookie",
    "credentials",
]
NAMES += ["private_key", "privateKey", "ssh-private-key", "bearer", "bearerToken", "passphrase", "accessKey"]

HUSH = "hu,sh}]"
"""A planted secret; it has what could be taken for the end of a value."""


def record(id: str = "req_1") -> RequestRecord:
    """A request that has just come."""
    return RequestRecord(id=id, path="/v1/chat/completions", client="webui", arrived_at=0)


def kept(body: object) -> str:
    """Return what is kept of a body, given as JSON or as it is."""
    captures = Captures()
    captures.note(record(), body if isinstance(body, bytes) else json.dumps(body).encode(), 1.0)
    return captures.fields()[0]["body"]


def test_seconds_are_shown_as_in_events() -> None:
    """What became of a request has no more digits than its event has."""
    captures, one = Captures(), record()
    one.total_s = 3.541000000011991
    captures.note(one, b"{}", 1.0)

    assert captures.fields()[0]["total_s"] == 3.541


def test_what_was_sent() -> None:
    """Beside the body stands what its server got of it, without secrets too; nothing before it was sent."""
    captures, first, second = Captures(), record("a"), record("b")
    captures.note(first, b'{"model": "m"}', 1.0)
    captures.note(second, b'{"model": "m"}', 2.0)

    captures.sent(first, b'{"model": "m", "temperature": 0.5, "password": "hush"}')
    captures.sent(record("c"), b'{"model": "of a request that is not kept"}')

    sent = [each["sent"] for each in captures.fields()]
    assert sent == ['{"model": "m", "temperature": 0.5, "password": "***"}', None]


class TestRedaction:
    @pytest.mark.parametrize("name", NAMES)
    def test_what_is_called_like_a_secret(self, name) -> None:
        """The string of a field that is called like a secret is not kept, however deep it lies."""
        body = {"tools": [{name: 'hush "hush" hush', "kind": "mcp"}], "model": "m"}

        assert json.loads(kept(body)) == {"tools": [{name: "***", "kind": "mcp"}], "model": "m"}

    @pytest.mark.parametrize(
        "value",
        [["hush"], {"a": 1, "b": {"c": ["hush"]}}, [], 12345, True, None, "", 'a\\\\"b\\', [[{}], "]"]],
    )
    @pytest.mark.parametrize("name", ["password", "private_key", "secret", "token"])
    def test_any_value(self, name, value) -> None:
        """Whatever a secret is, a list, an object or a number, the whole of it is not kept."""
        body = {"tools": [{name: value, "kind": "mcp"}], "model": "m"}

        assert json.loads(kept(body)) == {"tools": [{name: "***", "kind": "mcp"}], "model": "m"}

    @pytest.mark.parametrize("depth", [1, 2, 3])
    @pytest.mark.parametrize("value", ["hush", ["hush", 'a"b'], {"a": "hush"}, 5])
    def test_json_inside_strings(self, depth, value) -> None:
        """JSON in a string, in a string, is no better a place for any value of a secret."""
        wraps = [lambda inner: {"arguments": json.dumps(inner), "after": "x"}] * depth

        body = reduce(lambda inner, wrap: wrap(inner), wraps, {"secret": value, "unit": "C"})

        told = reduce(lambda outer, _: json.loads(outer["arguments"]), wraps, json.loads(kept(body)))
        assert told == {"secret": "***", "unit": "C"}

    @settings(max_examples=300)
    @given(
        name=st.sampled_from(NAMES),
        value=st.recursive(
            st.just(HUSH),
            lambda inner: (
                st.lists(inner, min_size=1, max_size=3)
                | st.dictionaries(st.text(max_size=5), inner, min_size=1, max_size=3)
            ),
        ),
        beside=st.dictionaries(
            st.text(max_size=5), st.text(max_size=9) | st.lists(st.integers()), max_size=3
        ),
        is_inside=st.booleans(),
        cut=st.integers(0, 400),
        lost=st.integers(0, 400),
    )
    def test_planted(self, name, value, beside, is_inside, cut, lost) -> None:
        """A planted secret is not kept, be the JSON whole, in a string, cut off, or short of a bracket."""
        inner = {**beside, name: value, "last": 1}
        body = json.dumps({"arguments": json.dumps(inner)} if is_inside else inner)
        whole, short = kept(body.encode()), kept(body[:cut].encode())
        brackets = [at for at, one in enumerate(body) if one in "[]}"]
        gone = brackets[lost % len(brackets)]
        broken = body[:gone] + body[gone + 1 :]
        inside = kept({"content": broken}) + kept([body[:cut], f"see {body}", repr(json.loads(body))])

        assert "hu,s" not in whole + short + kept(broken.encode()) + inside
        assert json.loads(whole)

    @pytest.mark.parametrize(
        "body",
        [
            b'{"password": ["hush", "hush',
            b'{"password": {"a": ["hush"}, "b": "hush"',
            b'{"password": hush, "n": 1}',
            b'{"pass\\u0077ord": "hush", "n": 1',
            b'--b\r\nContent-Disposition: form-data; name="token"\r\n\r\nhush\r\n--b--\r\n',
            b"\xff{}",
            b"[" * 5000,
            b"[" * 600 + b"]" * 600,
            b'[%b"hush"%b]' % (b"[" * 600, b"]" * 600),
            b'{"n": %b}' % (b"9" * 5000),
            b"[%b1]" % (b"1," * EXAMINED_VALUES),
            b'"%b"' % (b"x" * EXAMINED_BYTES),
            b"",
        ],
        ids=lambda body: repr(body[:30]),
    )
    def test_what_is_no_json(self, body) -> None:
        """Of what is no JSON, is cut off, or too much to look through, nothing is kept."""
        assert kept(body) == UNREADABLE

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ('{"password": "hush', '{"password": ***'),
            ('see {"n": 1, "api_key": "hush"} there', 'see {"n": 1, "api_key": ***'),
            ("{'client_secret': 'hush'}", "{'client_secret': ***"),
            ('"{\\"token\\": \\"hush', '"{\\"token\\": ***'),
            ('call it with {"max_tokens": 5}, or not', 'call it with {"max_tokens": ***'),
            ("{'token_ids': [1, 2], 'tokens': 'hush'}", "{'token_ids': ***"),
            ('{"token": 5, "hush', '{"token": ***'),
            ("[INST] My password? [/INST]", "[INST] My password? [/INST]"),
            ('"{\\"password\\": \\"hush\\"}"', '"{\\"password\\": \\"***\\"}"'),
            ('{\n  "pass\\u0077ord": "hush"\n}', '{"password": "***"}'),
            ('{\n  "city": "Ulm"\n}', '{\n  "city": "Ulm"\n}'),
        ],
    )
    def test_what_is_nearly_json(self, text, told) -> None:
        """In a string that is not quite JSON, nothing is kept after the name of a secret."""
        assert json.loads(kept({"content": text})) == {"content": told}

    @pytest.mark.parametrize("text", ["sk-abcdefgh12345", "Bearer abcdef.12345"])
    def test_a_credential_as_a_name(self, text) -> None:
        """A credential is none the better for being the name of a field."""
        assert "abcdef" not in kept({text: 1})

    def test_json_inside_a_string(self) -> None:
        """The arguments of a tool's call are JSON in a string, and no better a place for a secret."""
        body = {"arguments": json.dumps({"city": "Ulm", "token": "hush", "unit": "C"})}

        told = json.loads(json.loads(kept(body))["arguments"])

        assert told == {"city": "Ulm", "token": "***", "unit": "C"}

    @pytest.mark.parametrize("text", ["Bearer abcdef.12345", "Basic dXNlcjpwYXNz", "sk-abcdefgh12345"])
    def test_what_looks_like_a_credential(self, text) -> None:
        """What looks like a credential is not kept, wherever it is."""
        assert text.split()[-1].removeprefix("sk-") not in kept({"content": f"use {text} please"})

    @pytest.mark.parametrize(
        "body",
        [
            {"max_tokens": 5, "stop": ["token"], "messages": [{"role": "user", "content": "My password?"}]},
            {"content": "a/rather/long/path/" * 4, "token_ids": [1, 2, 3], "seed": None},
            {"thinking": {"budget_tokens": 1024}, "add_special_tokens": False, "min_tokens": None},
            {"properties": {"key": {"type": "string"}}, "monkey": "x", "modelKey": "m"},
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


class TestBounds:
    def test_the_oldest_go_first(self) -> None:
        """Only the last requests are kept."""
        captures = Captures()

        for number in range(REQUESTS + 2):
            captures.note(record(str(number)), b"{}", 1.0)

        assert [one["id"] for one in captures.fields()] == [str(at) for at in range(2, REQUESTS + 2)]

    @pytest.mark.parametrize(("size", "cut"), [(1000, False), (KEPT_CHARACTERS + 9, True), (4_000_000, True)])
    def test_a_long_body(self, size, cut) -> None:
        """Of a long body the beginning is kept, and that it was cut."""
        captures = Captures()
        body = b'{"content": "%b"}' % (b"word " * (size // 5))

        captures.note(record(), body, 1.0)

        (one,) = captures.fields()
        assert (one["size_bytes"], one["cut"]) == (len(body), cut)
        assert one["body"] == body[:KEPT_CHARACTERS].decode()

    def test_a_long_string(self) -> None:
        """Of a string the beginning is kept and how much is missing; of sound, all is measured."""
        length = KEPT_CHARACTERS + 5

        told = json.loads(kept(["U" * length, "word", "U" * (KEPT_CHARACTERS - 9) + " word" * 9]))

        assert told == [
            f"({length} characters)",
            "word",
            f"({KEPT_CHARACTERS - 9} characters) word ... (36 more characters)",
        ]

    @pytest.mark.parametrize("shown", range(0, 60, 3))
    @pytest.mark.parametrize("credential", [f"dmap-{'z' * 43}", "sk-zzzzzzzzzzzzz", "Bearer zzzzzzzzzzz"])
    def test_a_credential_at_the_cut(self, shown, credential) -> None:
        """A credential that the end of what is kept goes through is not kept either."""
        images = "A" * 1000 + " "
        before = images + ": " * KEPT_CHARACTERS

        told = kept([before[: KEPT_CHARACTERS - shown] + credential + " word" * 99, "after"])

        assert "zzz" not in told and "after" in told

    def test_what_became_of_it(self) -> None:
        """A capture tells how its request ended, once it has."""
        captures, one = Captures(), record()
        captures.note(one, b"{}", 1.0)
        one.status = 200
        before = captures.fields()[0]

        one.status, one.outcome, one.reason = 502, "backend_broke", "it broke"

        after = captures.fields()[0]
        assert (before["status"], before["outcome"]) == (200, None)
        assert (after["status"], after["outcome"], after["reason"]) == (502, "backend_broke", "it broke")


class TestPage:
    @pytest.mark.parametrize(("capture", "ids"), [("true", ["req_1"]), ("false", [])])
    async def test_only_where_it_is_on(self, start, backend, capture, ids) -> None:
        """`/debug/captures` shows bodies where `debug.capture` is on, and none where it is not."""
        proxy = await start(
            f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\ndebug: {{capture: {capture}}}"
        )
        proxy.proxy.captures.note(record(), b"{}", 1.0)

        told = await asked(proxy, "/debug/captures")

        assert (told["capture"], [one["id"] for one in told["captures"]]) == (capture == "true", ids)
