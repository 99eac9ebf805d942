"""Pages in a browser: what tells a page of another site, where no key does."""

import pytest
from multidict import CIMultiDict

from dmap import config
from dmap.access import Access, Client
from dmap.errors import AccessDenied
from tests.test_access import KEYS, LAN, LOOPBACK, PROXY, access, bearer, sent


def lets_in(door: Access, peer: str, headers: CIMultiDict[str]) -> bool:
    """Tell whether *peer* is admitted to the models."""
    try:
        door.admit(peer, headers, scope="inference")
    except AccessDenied:
        return False
    return True


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8000", "LOCALHOST.", "127.0.0.1:8000", "[::1]:8000", "a.localhost",
        "0.0.0.0:8000", "192.168.1.9:8000", "[fe80::1%eth0]:8000", "[fd00::5]", "llm", "llm:80", "LLM.",
        "my_box", "2130706433", "local.", "127.0.0.1.", "llm.local", "llm.lan:8000", "llm.home.arpa",
        "host.docker.internal:8000", "LLM.Example.COM.:8000", "llm.example.com", "localhost:",
    ],
)  # fmt: skip
@pytest.mark.parametrize("peer", [LOOPBACK, "::1", LAN])
@pytest.mark.parametrize("scope", ["inference", None])
def test_what_dns_cannot_lead_here_is_served(peer, host, scope):
    """Without keys, dmap answers to addresses, local names and the names that it was given."""
    door = Access(config.AccessSection(allow=("192.168.1.0/24",)), ("llm.example.com",))

    assert door.admit(peer, sent(host=host), scope=scope).name == peer


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "EVIL.EXAMPLE.", "localhost.evil.example",
        "127.0.0.1.evil.example", "localhost@evil.example", "evil.example@localhost", "localhost:evil",
        "localhost:80:80", "", ".", ":8000", ".local", "evil..lan", "evillocal.example", "evil.xn--local",
        "[::1", "::1", "[evil.example]", "[localhost]", "127.1", "0x7f.1", "0177.0.0.1", "256.0.0.1",
        "löcal", "evil。example", "evil.example%00.local", "evil.example .local", "evil.example/.local",
        "evil.example#.local", "evil.example\\.local", "evil.example,localhost",
        "localhost, evil.example", "localhost evil.example", "xn--vil-bma.example",
        "llm.example.com.evil.example", "evil-llm.example.com", "example.com", "home.arpa",
        f"{'a' * 300}.local", f"{'a.' * 200}evil.example", "http://localhost", "localhost:123456",
    ],
)  # fmt: skip
@pytest.mark.parametrize("peer", [LOOPBACK, LAN])
@pytest.mark.parametrize("scope", ["inference", None])
def test_a_rebound_name_is_refused(peer, host, scope):
    """A page that has its own name lead here shows in `Host` and is refused, and what is no host, too."""
    door = Access(config.AccessSection(allow=("192.168.1.0/24",)), ("llm.example.com",))

    with pytest.raises(AccessDenied, match=r"Host header .* listen\.names"):
        door.admit(peer, sent(host=host), scope=scope)


@pytest.mark.parametrize("headers", [CIMultiDict(), CIMultiDict([("Host", "llm"), ("Host", "evil.example")])])
@pytest.mark.parametrize("peer", [LOOPBACK, LAN])
def test_a_missing_or_a_second_host_is_refused(peer, headers):
    """Who names no `Host`, or two, is nobody's browser, and no client either."""
    with pytest.raises(AccessDenied, match="Host"):
        access(open=True).admit(peer, headers, scope=None)


@pytest.mark.parametrize(
    "lists", [{"open": True}, {"allow": (LAN,)}, {"trusted_proxies": (LAN,), "open": True}]
)
def test_wherever_no_key_is_asked_names_count(lists):
    """It does not matter by which list somebody is let in without a key."""
    with pytest.raises(AccessDenied, match="Host"):
        access(**lists).admit(LAN, sent(host="evil.example"), scope="inference")


@pytest.mark.parametrize(
    ("host", "told", "may"),
    [
        ("llm.lan", ["llm.lan"], True),
        ("llm.lan", [], True),
        ("llm.lan", ["llm.lan, proxy.lan"], True),
        ("llm.lan", ["evil.example"], False),
        ("127.0.0.1:8000", ["evil.example"], False),
        ("127.0.0.1:8000", ["llm.lan, evil.example"], False),
        ("127.0.0.1:8000", ["evil.example", "llm.lan"], False),
        ("127.0.0.1:8000", ["llm.lan,"], False),
        ("evil.example", ["llm.lan"], False),
    ],
)
def test_a_proxy_changes_no_rule(host, told, may):
    """Behind a trusted proxy every name that it tells has to be one of ours, too."""
    headers = sent(("X-Forwarded-For", LAN), *(("X-Forwarded-Host", name) for name in told), host=host)
    door = access(allow=(LAN,), trusted_proxies=(PROXY,))

    assert lets_in(door, PROXY, headers) is may


def test_names_change_with_a_reload():
    """A name holds as long as it is listed."""
    door = Access(config.AccessSection(), ("llm.example.com",))

    door.configure(config.AccessSection(), ("other.example.com",))

    assert door.admit(LOOPBACK, sent(host="other.example.com"), scope=None).name == LOOPBACK
    with pytest.raises(AccessDenied, match="Host"):
        door.admit(LOOPBACK, sent(host="llm.example.com"), scope=None)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example", "null", "", "http://localhost.evil.example", "file://", "http://[",
        "localhost:8000", "http://localhost:3000", "http://localhost", "https://localhost",
        "http://127.0.0.1:8000", "//localhost:8000", "http://localhost:8000/",
        "http://localhost:8000, http://evil.example", "ftp://localhost:8000", "http://u@localhost:8000",
        "http://localhost:8000:8000", "chrome-extension://abcdef", "http://a.localhost:8000",
    ],
)  # fmt: skip
@pytest.mark.parametrize("peer", [LOOPBACK, LAN])
def test_a_foreign_page_is_refused(peer, origin):
    """A page of another site, or of another port, shows in `Origin` and is refused without a key."""
    with pytest.raises(AccessDenied, match="page"):
        access(open=True).admit(peer, sent(("Origin", origin)), scope=None)


@pytest.mark.parametrize(
    ("host", "origin", "may"),
    [
        ("llm.lan", "http://llm.lan", True),
        ("llm.lan", "https://llm.lan", True),
        ("llm.lan:80", "http://llm.lan", True),
        ("llm.lan:443", "https://llm.lan", True),
        ("LLM.lan.:8443", "https://llm.LAN:8443", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("llm.lan:80", "https://llm.lan", False),
        ("llm.lan:443", "http://llm.lan", False),
        ("llm.lan:8000", "http://llm.lan", False),
        ("llm.lan", "http://llm.lan:8000", False),
        ("[::1]:8000", "http://[::2]:8000", False),
    ],
)
def test_ports_count(host, origin, may):
    """A page is dmap's own if host and port are the same, a missing port being that of its scheme."""
    door = access(allow=(LAN,))

    assert lets_in(door, LAN, sent(("Origin", origin), host=host)) is may


@pytest.mark.parametrize("second", ["http://evil.example", "null", "http://localhost:3000"])
def test_every_origin_counts(second):
    """A second `Origin` is looked at like the first."""
    with pytest.raises(AccessDenied, match="page"):
        access().admit(
            LOOPBACK, sent(("Origin", "http://localhost:8000"), ("Origin", second)), scope="inference"
        )


@pytest.mark.parametrize(
    ("lines", "may"),
    [
        ([("Sec-Fetch-Site", "same-origin")], True),
        ([("Sec-Fetch-Site", "none")], True),
        ([("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Dest", "document")], True),
        ([("Sec-Fetch-Site", "same-origin"), ("Origin", "http://localhost:8000")], True),
        ([("Sec-Fetch-Site", "cross-site"), ("Origin", "https://ui.example")], True),
        ([("Origin", "https://ui.example"), ("Origin", "https://evil.example")], False),
        ([("Sec-Fetch-Site", "cross-site")], False),
        ([("Sec-Fetch-Site", "same-site")], False),
        ([("Sec-Fetch-Site", "")], False),
        ([("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Dest", "iframe")], False),
        ([("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")], False),
        ([("Sec-Fetch-Site", "same-site"), ("Origin", "http://localhost:8000")], False),
        (
            [
                ("Sec-Fetch-Site", "cross-site"),
                ("Sec-Fetch-Dest", "document"),
                ("Origin", "http://localhost:8000"),
            ],
            False,
        ),
    ],
)
def test_what_a_browser_says_of_a_page_counts(lines, may):
    """A page that shows in no `Origin` shows in `Sec-Fetch-Site`; a link that a person follows is no page."""
    door = access(cors=("https://ui.example",))

    assert lets_in(door, LOOPBACK, sent(*lines)) is may


@pytest.mark.parametrize("origin", ["http://localhost:8000", "https://LOCALHOST.:8000"])
def test_a_page_of_dmaps_own_may_ask(origin):
    """A page that came from where dmap answers may ask."""
    assert access().admit(LOOPBACK, sent(("Origin", origin)), scope=None) == Client(LOOPBACK)


@pytest.mark.parametrize(
    ("listed", "origin"),
    [
        ("https://ui.example", "https://ui.example"),
        ("https://UI.example:8443", "https://ui.example:8443"),
        ("*", "null"),
    ],
)
def test_a_page_that_is_listed_may_ask(listed, origin):
    """Pages of the origins in `access.cors` may use models without a key."""
    door = access(cors=(listed,))

    assert door.admit(LOOPBACK, sent(("Origin", origin)), scope="inference") == Client(LOOPBACK)


@pytest.mark.parametrize("scope", ["admin", "debug"])
def test_what_is_private_is_for_no_page(scope):
    """Without keys, pages of no other site get at `/admin` and `/debug`, listed or not."""
    with pytest.raises(AccessDenied, match="page"):
        access(cors=("*",)).admit(LOOPBACK, sent(("Origin", "https://ui.example")), scope=scope)


@pytest.mark.parametrize("origin", ["http://ui.example", "https://ui.example:444", "https://ui.example.evil"])
def test_a_page_that_is_not_listed_may_not(origin):
    """An origin is scheme, host and port together."""
    with pytest.raises(AccessDenied, match="page"):
        access(cors=("https://ui.example",)).admit(LOOPBACK, sent(("Origin", origin)), scope="inference")


def test_a_key_answers_for_a_page():
    """With keys, any page that has one may ask, under any name."""
    headers = sent(bearer("all"), ("Origin", "https://ui.example"), host="box.example")

    assert access(keys=KEYS).admit(LAN, headers, scope="inference").name == "all"
