"""What a request asks for, and how each server gets it."""

import gc
import json

import pytest

from dmap.errors import BadRequest
from dmap.kinds import KINDS, ROUTES
from dmap.models import ModelKey, Route
from dmap.web.asked import Asked

CHAT = ROUTES["/v1/chat/completions"]
WORDS = KINDS["openai"].wording(CHAT)
SPEECH = ROUTES["/v1/audio/transcriptions"]
FORM = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n--x--\r\n'
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'


def route(model="m", **options):
    return Route(ModelKey("up", model), **options)


def test_the_same_bytes():
    """What needs no change goes on as the very same bytes."""
    asked = Asked(CHAT, "text/plain", BODY)
    asked.check(route(), WORDS, frozenset())

    assert (asked.model, asked.stream, asked.content_type) == ("m", False, "application/json")
    assert asked.fitted(route()) is BODY


def test_each_place_gets_its_own():
    """What goes up depends on the place: its name of the model, its defaults."""
    asked = Asked(CHAT, "", BODY)
    places = (route("a", defaults={"seed": 1}), route("b"))
    for place in places:
        asked.check(place, WORDS, frozenset())

    first, second = (json.loads(asked.fitted(place)) for place in places)

    assert (first["model"], first["seed"]) == ("a", 1)
    assert (second["model"], "seed" in second) == ("b", False)


def test_what_needs_a_permit():
    """What the route does not permit, and the client neither, is refused by the check."""
    asked = Asked(CHAT, "", BODY[:-1] + b', "draft_model": "d"}')

    with pytest.raises(BadRequest):
        asked.check(route(), WORDS, frozenset())
    asked.check(route(), WORDS, frozenset(("draft_model",)))


def test_a_form():
    """A form goes on with another model in it, and with a Content-Type of dmap's own."""
    asked = Asked(SPEECH, 'multipart/form-data; charset=utf-8; boundary="x"', FORM)
    asked.check(route("large"), WORDS, frozenset())

    assert (asked.model, asked.content_type) == ("whisper", "multipart/form-data; boundary=x")
    assert asked.fitted(route("large")) == FORM.replace(b"whisper", b"large")


def test_a_form_needs_permits():
    """A form may not ask for more than JSON, and a field that is stripped from JSON stays in a form."""
    form = FORM.replace(
        b"--x--", b'--x\r\nContent-Disposition: form-data; name="url"\r\n\r\nhttp://h\r\n--x--'
    )
    asked = Asked(SPEECH, "multipart/form-data; boundary=x", form)

    with pytest.raises(BadRequest, match="'image_url' is not permitted"):
        asked.check(route("whisper", strip=frozenset({"url"})), WORDS, frozenset())
    asked.check(route("whisper"), WORDS, frozenset({"image_url"}))


def test_nothing_is_kept():
    """After `drop` nothing holds a large body; a small one stays, to be learned from."""
    large = BODY[:-1] + b', "user": "%b"}' % (b"x" * 2**21)
    asked = Asked(CHAT, "", large)
    asked.check(route("a"), WORDS, frozenset())
    asked.fitted(route("a"))

    asked.drop()

    assert [one for one in gc.get_referrers(large) if one is not globals()] == []
    assert asked.sample is None
