"""Links in content parts, which a server would fetch: in all dialects, spellings and hiding places."""

import itertools
from collections.abc import Iterator

from bench.attack.attack import MAY, Attack
from bench.attack.spelling import spellings

SMALL = b'"%b"' % MAY
LINK = b"http://127.0.0.1:9/x"


def links() -> Iterator[Attack]:
    """Links in content parts of all dialects, which a server would fetch."""
    values = (b'"%b"' % LINK, b'{"url":"%b"}' % LINK, b'{"URL":"%b"}' % LINK)
    for word, value in itertools.product(
        ("image_url", "video_url", "audio_url", "file_url", "url", "image"), values
    ):
        yield from _turns(b'{"type":"image_url","%b":%b}' % (word.encode(), value))
        for number, spelled in enumerate(spellings(word)):  # each in one place, by turns
            part = b'{"type":"image_url","%b":%b}' % (spelled, value)
            yield from itertools.islice(_turns(part), number % 8, number % 8 + 1)
    yield from _strange_links()
    for link in (
        b" http://x",
        b"HTTP://x",
        b"\\u0068ttp://x",
        b"\\thttp://x",
        b"file:///etc/passwd",
        b"data:,\\nhttp://",
    ):
        yield from _turns(b'{"type":"image_url","image_url":{"url":"%b"}}' % link)
        yield from _turns(b'{"type":"image_url","image_url":{"url":"data:,","url":"%b"}}' % link)
    yield from _turns(b'{"type":"image","source":{"type":"url","url":"%b"}}' % LINK)
    yield from _turns(
        b'{"type":"tool_result","content":[{"type":"image","source":{"type":"url","url":"%b"}}]}' % LINK
    )
    yield from _turns(b'{"type":"image","source":{"type":"base64","data":""},"source":{"url":"%b"}}' % LINK)


_STRANGE = (
    *(b"http:x.example", b"http:\\\\x", b"ht\\ntp://x", b"h\\ttp:x", b"\\u0000http://x", b"\\u0001 http://x"),
    *(b"https:/x", b"file:x", b"\\u00a0http://x"),
)
"""What `new URL` of WHATWG takes for a link."""


def _strange_links() -> Iterator[Attack]:
    """Links that do not look like one, in lists, and in the members that bodies for images have."""
    forms = (
        b'"%b"',
        b'["%b"]',
        b'{"url":"%b"}',
        b'[{"image_url":"%b"}]',
        b'[{"url":"%b"}]',
        b'{"image_url":{"url":"%b"}}',
    )
    for link in (*_STRANGE, LINK):
        yield from _turns(b'{"type":"image","image":"%b"}' % link)
        yield from _turns(b'{"type":"image_url","image_url":["%b"]}' % link)
        yield from _turns(b'{"type":"image","image":["%b"]}' % link)
        for word, form in itertools.product((b"image", b"images", b"mask"), forms):
            body = b'{"model":%b,"prompt":"x","%b":%b}' % (SMALL, word, form % link)
            yield Attack("links", body, path="/v1/images/edits")


def _turns(part: bytes) -> Iterator[Attack]:
    """Put one content part where the dialects have them, and where a second list of messages hides it."""
    message = b'{"role":"user","content":[%b]}' % part
    start = b'{"model":%b,' % SMALL
    yield Attack("links", b'%b"messages":[%b]}' % (start, message))
    yield Attack("links", b'%b"messages":[],"messages":[%b]}' % (start, message))
    yield Attack("links", b'%b"messages":[{"role":"user","content":"x","Content":[%b]}]}' % (start, part))
    yield Attack("links", b'%b"input":[%b]}' % (start, message), path="/v1/responses")
    yield Attack("links", b'%b"max_tokens":9,"messages":[%b]}' % (start, message), path="/v1/messages")
    yield Attack(
        "links", b'%b"system":[%b],"max_tokens":9,"messages":[]}' % (start, part), path="/v1/messages"
    )
    yield Attack("links", b'%b"query":"x","documents":[{"content":[%b]}]}' % (start, part), path="/v1/rerank")
    yield Attack("links", b'%b"Messages":[%b],"messages":[]}' % (start, message))
