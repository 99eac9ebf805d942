"""Which header lines cross, and which id a request gets."""

import pytest
from multidict import CIMultiDict

from dmap.kinds import ROUTES
from dmap.wire import routes
from dmap.wire.headers import request_id, to_backend, to_client


def test_a_backend_gets_what_it_needs():
    """The allowed lines go up as they are, then the encoding dmap can search, then the backend's own."""
    sent = [
        ("Accept", "text/event-stream"),
        ("USER-AGENT", "x"),
        ("traceparent", "00-1"),
        ("anthropic-version", "1"),
    ]

    lines = to_backend(sent, [("Authorization", "Bearer backend")])

    assert lines == [*sent, ("Accept-Encoding", "identity"), ("Authorization", "Bearer backend")]


@pytest.mark.parametrize(
    "name",
    [
        "Authorization", "x-api-key", "Cookie", "Proxy-Authorization", "X-Forwarded-For", "Forwarded",
        "X-Real-IP", "Host", "Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length",
        "Content-Type", "Content-Encoding", "Accept-Encoding", "Expect", "Upgrade", "TE", "Trailer", "Origin",
        "Referer", "X-Request-Id", "X-Stainless-Retry-Count", "OpenAI-Organization", "Range", "If-None-Match",
        "Accept ",
    ],
)  # fmt: skip
def test_nothing_else_goes_up(name):
    """A client's credentials, forwarding tricks, framing and conditions never reach a backend."""
    assert to_backend([(name, "x"), (name.lower(), "y")], []) == [("Accept-Encoding", "identity")]


def test_an_answer_comes_down():
    """What a server says of its own answer is for the client, doubles included."""
    lines = [
        ("Content-Type", "text/event-stream"),
        ("X-Model", "m"),
        ("Link", "a"),
        ("Link", "b"),
        ("Vary", "*"),
    ]

    assert list(to_client(CIMultiDict(lines)).items()) == lines


@pytest.mark.parametrize(
    "name",
    [
        "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Connection", "TE", "Trailer",
        "Transfer-Encoding", "Upgrade", "Content-Length", "Date", "Server", "X-Request-ID", "Set-Cookie",
        "WWW-Authenticate",
        "X-Powered-By", "Dmap-Cache", "Access-Control-Allow-Origin", "access-control-max-age",
    ],
)  # fmt: skip
def test_what_is_not_the_answers_stays(name):
    """Hop-by-hop lines, those that dmap says itself, and those about the backend do not come down."""
    assert not to_client(CIMultiDict({name: "x"}))


def test_what_the_connection_names_stays():
    """Lines named in `Connection` are hop-by-hop too (RFC 9110, section 7.6.1)."""
    lines = [
        ("connection", "close, X-Hop"),
        ("Connection", "x-other"),
        ("x-hop", "1"),
        ("X-Other", "2"),
        ("X-End", "3"),
    ]

    assert dict(to_client(CIMultiDict(lines))) == {"X-End": "3"}


@pytest.mark.parametrize("given", ["req_1", "a" * 128, "A-b.c:9_"])
def test_a_sane_id_is_kept(given):
    """A client's own id goes through the log and to the backend."""
    assert request_id({"x-request-id": given}) == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", 'a"b', "a\nb", "a\n", "é", "a=b", "\udcff"])
def test_another_id_is_replaced(given):
    """An id that could forge a log line or a header is replaced by a fresh one."""
    first, second = request_id({"x-request-id": given}), request_id({"x-request-id": given})

    assert first.startswith("req_")
    assert len(first) == 36
    assert first != second


def test_routes_are_spelled_as_openai_spells_them():
    """The table of routes has only plain paths, each under its own name; outside /v1 one server's."""
    assert [path for path in ROUTES if path != path.lower().rstrip("/")] == []
    assert ROUTES.keys() - routes.ROUTES.keys() == {path for path in ROUTES if not path.startswith("/v1/")}
    assert all(route.path == path for path, route in ROUTES.items())
