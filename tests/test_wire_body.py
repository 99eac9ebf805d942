"""What dmap reads of a JSON body is what a backend reads."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given, reject, settings
from hypothesis import strategies as st

from dmap.errors import BadRequest
from dmap.wire.body import Call, check_permits, peek

URL = "http://10.0.0.1/cat.png"
DATA = "data:image/png;base64,AAAA"
DEEP = 100_000


def asks_for(fields: dict[str, Any]) -> list[str]:
    """Name the guarded fields that a body with *fields* uses."""
    body = json.dumps({"model": "m", **fields}).encode()
    return [need.field for need in peek(body).needs]


# What is read


@pytest.mark.parametrize(
    ("body", "model", "stream"),
    [
        (b'{"model": "m"}', "m", False),
        (b' {"model" : "m" , "stream" : true}\r\n\t', "m", True),
        (b'{"stream": true, "model": "m"}', "m", True),
        (b'{"model": "m", "stream": null}', "m", False),
        (b'{"model": null}', None, False),
        (b'{"model": ""}', None, False),
        (b'{"model": " \\t\\u00a0"}', None, False),
        (b"{}", None, False),
        (b'{"model": "\\u006d"}', "m", False),
        (b'{"\\u006dodel": "m"}', "m", False),
        (b'{"model": "m/\xc3\xa9:Q4_K_M@x"}', "m/é:Q4_K_M@x", False),
        (b'{"model": "m", "tool": {"model": "n", "Model": "o"}}', "m", False),
        (b'{"tool": {"model": "n"}}', None, False),
        (b'{"type": "model", "model": "m", "x": "\\"model\\""}', "m", False),
        (b'{"model": "m", "x": 1e999, "y": -0.0, "": 1}', "m", False),
        (b'{"model": " m "}', " m ", False),
    ],
)
def test_the_outermost_model_is_read(body, model, stream):
    """`model` and `stream` are those of the outermost object; null, or an empty model, is as absent."""
    call = peek(body)

    assert (call.model, call.stream) == (model, stream)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "model": "n"}',
        b'{"model": "m", "model": "m"}',
        b'{"model": null, "model": "n"}',
        b'{"model": "m", "\\u006dodel": "n"}',
        b'{"mo\\u0064el": "m", "mod\\u0065l": "n"}',
        b'{"Model": "m"}',
        b'{"model": "m", "MODEL": "n"}',
        b'{"model": "m", "\\u004dODEL": "n"}',
        b'{"x": {"model": "m"}, "model": "m", "y": ["model"], "model": "n"}',
        b'{"model": 1}',
        b'{"model": true}',
        b'{"model": ["m"]}',
        b'{"model": {"id": "m"}}',
        b'{"model\\u0000": "n", "model": "m"}',
        b'{"model": "m", "mod_el": "n"}',
        b'{"model": "m", " model": "n"}',
        b'{"mod\\u200bel": "n"}',
    ],
)
def test_a_model_that_could_be_read_otherwise_is_refused(body):
    """A second `model`, in any letter case or behind escapes, or one that is no name, is refused by name."""
    with pytest.raises(BadRequest) as refused:
        peek(body)

    assert refused.value.param == "model"


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream": true, "stream": false}',
        b'{"stream": true, "STREAM": false}',
        b'{"Stream": true}',
        '{"ſtream": true}'.encode(),
        b'{"\\u017ftream": true}',
        b'{"stream": "true"}',
        b'{"stream": 1}',
    ],
)
def test_a_stream_that_could_be_read_otherwise_is_refused(body):
    """`stream` is a boolean given once, in lower case; Go takes the long s for one too."""
    with pytest.raises(BadRequest) as refused:
        peek(body)

    assert refused.value.param == "stream"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"model"',
        b"\xef\xbb\xbf{}",
        '{"model": "m"}'.encode("utf-16"),
        '{"model": "m"}'.encode("utf-16-le"),
        '{"model": "m"}'.encode("utf-32"),
        b'{"model": "m", "x": NaN}',
        b'{"model": "m", "x": -Infinity}',
        b'{"model": "m"} {"model": "n"}',
        b'{"model": "m"}\x00',
        b'{"model": "m",}',
        b'{"model": "m"',
        b"{'model': 'm'}",
        b'{model: "m"}',
        b'{"model": "m" /* */}',
        b'{"mo\tdel": "m"}',
        b'{"model": "m", "x": 01}',
        b'{"model": "m", "x": "\\x41"}',
        b'{"\xff": 1, "model": "m"}',
        b'{"model": "m", "x": "\\ud800"}',
        b'{"model": "\\ud800"}',
        b"[" * DEEP,
        b'{"model": "m", "x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"model": "m", "model": "m", "x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"model": "m", "x": ' + b'{"model":' * DEEP + b"1" + b"}" * (DEEP + 1),
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_not_strict_json_is_refused(body):
    """Only an object in UTF-8, without a byte order mark, by RFC 8259 and not too deep, is a body."""
    with pytest.raises(BadRequest):
        peek(body)


# What needs a permit

RELOADING = ("num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"draft_model": "n"}, ["draft_model"]),
        ({"context_length": 9}, ["context_length"]),
        ({"integrations": ["mcp/x"]}, ["integrations"]),
        ({"mcp_servers": [{"type": "url", "url": URL}]}, ["mcp_servers"]),
        ({"keep_alive": "5m"}, ["keep_alive"]),
        ({"keep_alive": 0}, ["keep_alive"]),
        ({"keep_alive": -1}, ["keep_alive"]),
        ({"keep_alive": False}, ["keep_alive"]),
        ({"models": ["m", "n"]}, ["models"]),
        ({"fallbacks": ["n"]}, ["fallbacks"]),
        ({"context_window_fallbacks": [{"m": ["n"]}]}, ["context_window_fallbacks"]),
        ({"content_policy_fallbacks": [{"m": ["n"]}]}, ["content_policy_fallbacks"]),
        ({"background": True}, ["background"]),
        ({"background": "true"}, ["background"]),
        ({"background": 1}, ["background"]),
        ({"background": False, "fallbacks": [], "models": None}, []),
        ({"background": "transparent"}, []),
        ({"metadata": {"background": True, "models": ["n"]}}, []),
        ({"options": {"num_ctx": 9}}, ["options"]),
        ({"options": {"temperature": 1, "Num_Ctx": 9}}, ["options"]),
        *(({"options": {name: 9}}, ["options"]) for name in RELOADING),
        ({"options": {"temperature": 1}}, []),
        ({"options": ["num_ctx"]}, ["options"]),
        ({"draft_model": None, "keep_alive": None, "options": {}, "integrations": []}, []),
        ({"metadata": {"draft_model": "n"}}, []),
    ],
)
def test_fields_that_move_memory_need_a_permit(fields, named):
    """A field that loads, unloads or reaches out is named, unless it asks nothing."""
    assert asks_for(fields) == named


def test_escapes_do_not_hide_a_guarded_field():
    """A guarded field is found behind escapes."""
    body = b'{"model": "m", "draft\\u005fmodel": "n", "x": {"\\u0069mage_url": "http://h"}}'

    assert [need.field for need in peek(body).needs] == ["draft_model"]


def test_a_permit_is_for_one_field():
    """What a request needs has to be permitted, or stand in a member that is taken out."""
    call = peek(b'{"model": "m", "draft_model": "n", "mcp_servers": [{"url": "http://h"}]}')

    check_permits(call.needs, {"draft_model", "integrations"}, frozenset())
    check_permits(peek(b'{"models": ["n"]}').needs, {"fallbacks"}, frozenset())
    check_permits(call.needs, {"draft_model"}, frozenset({"mcpServers"}))
    with pytest.raises(BadRequest, match=r"'mcp_servers' is not permitted .* \(permit: integrations\)"):
        check_permits(call.needs, {"draft_model"}, frozenset())


SPELT = {
    "top, case": '{"IMAGE_URL": "http://h"}',
    "top, guarded": '{"Options": {}}',
    "top, camel": '{"draftModel": "n"}',
    "top, camel too": '{"contextLength": 9}',
    "top, double": '{"options": {"num_ctx": 1}, "options": {}}',
    "top, any double": '{"temperature": 1, "Temperature": 2}',
    "top, word": '{"MAX_TOKENS": 9}',
    "top, word too": '{"max_to\u212aen\u017f": 9}',
    "top, models": '{"Models": ["n"]}',
    "top, long": '{"contextWindowFallbacks": ["n"]}',
    "top, tools": '{"Tools": []}',
    "top, Kelvin": '{"\u212aeep_alive": 1}',
    "top, long s": '{"integration\u017f": []}',
    "top, long s escaped": '{"integration\\u017f": []}',
    "top, messages": '{"messages": [], "Messages": []}',
    "message, case": '{"messages": [{"role": "user", "Content": "a"}]}',
    "message, double": '{"messages": [{"role": "user", "content": "a", "content": "b"}]}',
    "message, escaped": '{"messages": [{"content": "a", "\\u0063ontent": "b"}]}',
    "message, colons": '{"messages": [{"content": "a", "content": "\\u003a"}]}',
    "message, more colons": '{"messages": [{"content": "a", "content": "\\u003A"}]}',
    "message, NUL": '{"messages": [{"content": "a", "content\\u0000": "b"}]}',
    "message, not the first": '{"messages": [{"content": "a"}, {"content": "a", "CONTENT": "b"}]}',
    "part, case": '{"messages": [{"content": [{"type": "image_url", "Image_URL": "http://h"}]}]}',
    "part, double": '{"messages": [{"content": [{"image_url": "data:,", "image_url": "http://h"}]}]}',
    "part, inside": '{"messages": [{"content": [{"image_url": {"url": "data:,", "URL": "http://h"}}]}]}',
    "part, type": '{"messages": [{"content": [{"Type": "text"}]}]}',
    "item": '{"input": [{"type": "message", "type": "message"}]}',
    "document": '{"documents": ["a", {"content": "a", "cOntent": "b"}]}',
    "tool, case": '{"tools": [{"type": "mcp", "Server_URL": "http://h"}]}',
    "tool, double": '{"tools": [{"type": "mcp", "type": "function"}]}',
    "tool, not the first": '{"tools": [{"type": "function"}, {"serverUrl": "http://h"}]}',
    "nobody's, in two cases": '{"foo_bar": 1, "model": "m", "Foo_Bar": 2}',
    "nobody's, in a part": '{"messages": [{"content": [{"type": "text", "foo": 1, "FOO": 2}]}]}',
    "deep": '{"messages": ' + '[{"content": ' * 9 + '"a"' + "}]" * 9 + "}",
}


@pytest.mark.parametrize("spelt", SPELT)
def test_a_field_is_spelled_in_one_way(spelt):
    """At every place that servers act on, a double and another spelling are refused and named."""
    with pytest.raises(BadRequest) as refused:
        peek(SPELT[spelt].encode())

    assert refused.value.param.lower() in SPELT[spelt].lower() or refused.value.param in (
        "draft_model",
        "context_length",
        "server_url",
        "integrations",
        "keep_alive",
        "max_tokens",
        "context_window_fallbacks",
    )


INSIDE = {
    "schema": '{"tools": [{"type": "function", "function": {"parameters": %s}}]}',
    "Anthropic's schema": '{"tools": [{"name": "f", "input_schema": %s}]}',
    "answer's schema": '{"response_format": {"type": "json_schema", "json_schema": {"schema": %s}}}',
    "Responses' format": '{"text": {"format": {"type": "json_schema", "schema": %s}}}',
    "Anthropic's arguments": '{"messages": [{"content": [{"type": "tool_use", "input": %s}]}]}',
    "arguments of a call": '{"messages": [{"tool_calls": [{"function": {"arguments": %s}}]}]}',
    "metadata": '{"metadata": %s}',
}


@pytest.mark.parametrize("place", INSIDE)
@pytest.mark.parametrize("indent", [None, 2])
def test_names_inside_of_what_is_not_structural_are_free(place, indent):
    """In a schema or in arguments any name may stand, in any letter case, and more than once."""
    inside = (
        '{"Model": 1, "model": 2, "model": 3, "image_url": "http://h", "Options": {"num_ctx": 1}, "URL": 0}'
    )
    body = json.loads(INSIDE[place] % "{}")

    assert peek((INSIDE[place] % inside).encode()).needs == []
    assert peek(json.dumps(body, indent=indent).encode()).needs == []


def _turn(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def _shapes(url: str) -> dict[str, dict[str, Any]]:
    image = {"type": "image_url", "image_url": {"url": url}}
    source = {"type": "image", "source": {"type": "url", "url": url}}
    screenshot = {"type": "computer_screenshot", "image_url": url}
    return {
        "chat, object": _turn(image),
        "chat, text": _turn({"type": "image_url", "image_url": url}),
        "chat, without a type": _turn({"image_url": url}),
        "chat, one part alone": {"messages": [{"role": "user", "content": image}]},
        "chat, system": {"messages": [{"role": "system", "content": [image]}, {"role": "user"}]},
        "video": _turn({"type": "video_url", "video_url": {"url": url}}),
        "audio": _turn({"type": "audio_url", "audio_url": {"url": url}}),
        "responses, image": {
            "input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]
        },
        "responses, bare": {"input": [{"type": "input_image", "image_url": url}]},
        "responses, file": {"input": [{"content": [{"type": "input_file", "file_url": url}]}]},
        "responses, a tool's": {"input": [{"type": "function_call_output", "output": [screenshot]}]},
        "responses, a computer's": {"input": [{"type": "computer_call_output", "output": screenshot}]},
        "anthropic": _turn(source),
        "anthropic, document": _turn({"type": "document", "source": {"type": "url", "url": url}}),
        "anthropic, inside": _turn({"type": "document", "source": {"type": "content", "content": [source]}}),
        "anthropic, a tool's": _turn({"type": "tool_result", "content": [source]}),
        "anthropic, system": {"system": [source]},
        "images, edit": {"images": [{"image_url": url}]},
        "rerank": {"query": "cat", "documents": [{"content": [image]}]},
        "a bare url": _turn({"type": "image", "url": url}),
        "a bare video": _turn({"type": "video", "url": url}),
        "outermost": {"image_url": url},
        "rerank, in one": {"query": {"content": [image]}, "documents": ["cat"]},
    }


@pytest.mark.parametrize("shape", _shapes(URL))
@pytest.mark.parametrize("url", [URL, "https://h/", "file:///etc/passwd", " HTTP://h", "//h/x", ""])
def test_a_link_needs_a_permit(shape, url):
    """A link that a server would fetch is found wherever a dialect lets a part stand."""
    assert asks_for(_shapes(url)[shape]) == ["image_url"]


@pytest.mark.parametrize("shape", _shapes(DATA))
@pytest.mark.parametrize("url", [DATA, "DATA:,x", " data:,x"])
def test_data_needs_none(shape, url):
    """A `data:` URL carries its bytes and passes."""
    assert asks_for(_shapes(url)[shape]) == []


@pytest.mark.parametrize(
    "fields",
    [
        _turn({"type": "text", "text": f"see {URL}, and image_url"}),
        _turn({"type": "tool_use", "name": "get", "input": {"page_url": URL}}),
        _turn({"type": "search_result", "source": URL, "content": []}),
        {
            "messages": [
                {"content": None, "tool_calls": [{"function": {"arguments": f'{{"a_url": "{URL}"}}'}}]}
            ]
        },
        {
            "messages": [
                {"content": "x", "annotations": [{"type": "url_citation", "url_citation": {"url": URL}}]}
            ]
        },
        {"tools": [{"function": {"parameters": {"properties": {"image_url": {"default": URL}}}}}]},
        {"metadata": {"image_url": URL}},
        _turn({"type": "image_url", "image_url": None}),
        _turn({"type": "web_search_result", "url": URL, "title": "a", "encrypted_content": "b"}),
        _turn({"type": "web_fetch_tool_result", "content": {"type": "web_fetch_result", "url": URL}}),
        _turn({"type": "image", "image": "iVBORw0KGgo" * 40_000}),
        _turn({"type": "image", "image": "/9j/4AAQSk" * 40_000}),
        _turn({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}}),
    ],
)
def test_a_link_that_nobody_fetches_passes(fields):
    """Links in text, in a tool's arguments and in schemas are no content parts."""
    assert asks_for(fields) == []


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
@pytest.mark.parametrize(
    "link", [URL, "file:///etc/passwd", "//h/x", " HTTPS://h", "http://h/" + "a" * 300_000]
)
def test_media_by_their_name_need_a_permit(kind, link):
    """Some servers take a URL where others take base64."""
    assert asks_for(_turn({"type": kind, kind: link})) == ["image_url"]


@pytest.mark.parametrize("before", [" " * 300_000, "a" * 300_000])
def test_a_long_link_is_a_link(before):
    """A link that is too long to be decoded passes only if it plainly is data."""
    assert asks_for(_turn({"image_url": f"{before}http://h"})) == ["image_url"]
    assert asks_for(_turn({"image_url": DATA + before})) == []


STRANGE = (
    *("http:x.example", "http:\\\\x", "ht\ntp://x", "h\ttp:x", "\0http://x", "\x01 http://x", "https:/x"),
    *("file:x", "\xa0http://x", "a.png", "../a", "http://h/" + "a" * 300_000, "http%3A//h"),
)
"""What some server takes for a link or a path, as WHATWG's `new URL` does the first of them."""
PLACES = {
    "a part's image": lambda link: _turn({"type": "image", "image": link}),
    "in a list": lambda link: _turn({"type": "image", "image": ["iVBORw0KGgo", link]}),
    "lists in a list": lambda link: _turn({"type": "image", "image": [[link]]}),
    "a list of links": lambda link: _turn({"type": "image_url", "image_url": [link]}),
    "an object in a list": lambda link: _turn({"type": "image_url", "image_url": [{"url": link}]}),
    "images of a message": lambda link: {"messages": [{"role": "user", "content": "a", "images": [link]}]},
    "images": lambda link: {"prompt": "a", "images": [link]},
    "an image": lambda link: {"prompt": "a", "image": link},
    "several as one": lambda link: {"prompt": "a", "image": [link]},
    "a mask": lambda link: {"prompt": "a", "mask": link},
    "a mask by its URL": lambda link: {"prompt": "a", "mask": {"image_url": link}},
    "a first image": lambda link: {"prompt": "a", "input_image": {"url": link}},
    "URLs": lambda link: {"prompt": "a", "image_urls": [link]},
    "a file": lambda link: _turn({"type": "file", "file": {"url": link}}),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("link", STRANGE, ids=lambda link: repr(link[:12]))
def test_only_bytes_need_no_permit(place, link):
    """Where a server may expect a link or bytes, whatever is no `data:` URL and no base64 needs a permit."""
    assert asks_for(PLACES[place](link)) == ["image_url"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", [DATA, DATA + "A" * 300_000], ids=len)
def test_bytes_need_no_permit(place, text):
    """There a `data:` URL passes, however long it is."""
    assert asks_for(PLACES[place](text)) == []


def test_a_tools_image_needs_a_permit():
    """A tool that makes images may be given one by its link."""
    tool = {"type": "image_generation", "input_image_mask": {"image_url": URL}}

    assert asks_for({"tools": [tool]}) == ["integrations"]
    assert asks_for({"tools": [tool | {"input_image_mask": {"image_url": DATA}}]}) == []


@pytest.mark.parametrize("body", ['{"model":"%s"}', '{"%s":1}'], ids=["model", "member"])
def test_a_long_name_is_refused(body):
    """The name of a model or a member has a bound."""
    with pytest.raises(BadRequest, match="1024 characters"):
        peek((body % ("m" * 2**20)).encode())


@pytest.mark.parametrize("where", [{"server_url": URL}, {"connector_id": "connector_dropbox"}])
def test_a_tool_on_another_host_needs_a_permit(where):
    """A remote tool in `tools` reaches out of the box as LM Studio's `integrations` do."""
    assert asks_for({"tools": [{"type": "mcp", **where}]}) == ["integrations"]


# For any body

_keys = st.sampled_from(
    ["model", "Model", "stream", "temperature", "max_tokens", "max_completion_tokens", "stop", "messages"]
) | st.text(max_size=4)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=6,
)
_pairs = st.lists(st.tuples(_keys, _values), max_size=6)
_bounded = settings(max_examples=150)


def _written(pairs: list[tuple[str, Any]], escape: bool, indent: bool) -> bytes:
    """Write an object, doubles included, as a client might."""
    space = "\n " if indent else ""
    members = ",".join(
        f"{space}{json.dumps(key, ensure_ascii=escape)}:{json.dumps(value, ensure_ascii=escape)}"
        for key, value in pairs
    )
    return f"{{{members}}}".encode("utf-8", "surrogatepass")


def accepted(body: bytes) -> Call:
    """Peek into *body*; a refusal is no example."""
    try:
        return peek(body)
    except BadRequest:
        reject()


@_bounded
@given(_pairs, st.booleans(), st.booleans())
def test_peek_reads_what_any_parser_reads(pairs, escape, indent):
    """
    For any JSON object, peek refuses, or its model is what `json` reads, be it the first or the last.

    A blank name is none.
    """
    body = _written(pairs, escape, indent)

    call = accepted(body)

    named = json.loads(body).get("model")
    assert named == dict(reversed(pairs)).get("model")
    assert call.model == (named if named and named.strip() else None)
    assert call.stream is bool(json.loads(body).get("stream"))


@_bounded
@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: f'{{"model":"{text}'.encode()))
@example(b'{"url":{"url":""}}')
def test_any_bytes_are_read_or_refused(body):
    """No bytes make peek, or the look for what takes a permit, fail otherwise than by a refusal."""
    with suppress(BadRequest):
        assert isinstance(peek(body).needs, list)
