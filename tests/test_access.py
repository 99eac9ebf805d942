"""Who may ask: nobody gets in without an address on the list, a key where there are keys, and its scope."""

import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from dmap import config
from dmap.access import Access, Client, scope_of
from dmap.errors import AccessDenied, DmapError, InvalidKey, Overloaded
from dmap.kinds import ROUTES
from dmap.wire.hop import Hop

LAN = "192.168.1.20"
STRANGER = "203.0.113.9"
PROXY = "10.0.0.2"
LOOPBACK = "127.0.0.1"


def key(name: str, **more: object) -> config.Key:
    """A key whose secret is `sk-` and its name."""
    return config.Key(name=name, sha256=hashlib.sha256(f"sk-{name}".encode()).hexdigest(), **more)


KEYS = (
    key("webui", models=("qwen*",)),
    key("ops", scopes=("admin", "debug")),
    key("all", scopes=("inference", "admin", "debug")),
)


def access(**lists: object) -> Access:
    """Access with the given lists."""
    return Access(config.AccessSection.model_validate(lists))


def sent(*lines: tuple[str, str], host: str = "localhost:8000") -> CIMultiDict[str]:
    """The headers of a request."""
    return CIMultiDict([("Host", host), *lines])


def bearer(name: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer sk-{name}")


# Addresses


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        (LAN, LAN),
        ("192.168.1.255", "192.168.1.255"),
        ("::ffff:192.168.1.20", LAN),
        ("fd00:1:2:3:4:5:6:7", "fd00:1:2:3::/64"),
        ("fd00:1:2:3::1%eth0", "fd00:1:2:3::/64"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.9.9.9", "127.9.9.9"),
        ("::1", "::1"),
        ("::1%lo", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
def test_an_address_on_the_list_may_ask(peer, name):
    """Listed addresses and loopback may ask; who has no key is its address, of IPv6 the /64."""
    door = access(allow=("192.168.1.0/24", "fd00::/16"))

    assert door.admit(peer, sent(), scope="inference").name == name


@pytest.mark.parametrize(
    "peer",
    [
        STRANGER,
        "192.168.2.20",
        "fe80::1",
        "::ffff:203.0.113.9",
        "::",
        "0.0.0.0",
        "::192.168.1.20",
        "64:ff9b::7f00:1",
    ],
)
def test_an_address_off_the_list_may_not(peer):
    """Where there is a list, nobody else gets in, not even with a key."""
    door = access(allow=("192.168.1.0/24", "fd00::/16"), keys=KEYS)

    with pytest.raises(AccessDenied, match="not allowed"):
        door.admit(peer, sent(bearer("all")), scope="inference")


@pytest.mark.parametrize("peer", ["", "unix:", "localhost", "1.2.3", "127.0.0.1:80", "0x7f000001"])
def test_what_is_no_address_may_not(peer):
    """A peer whose address cannot be read is refused."""
    with pytest.raises(AccessDenied, match="is not an address"):
        access(open=True).admit(peer, sent(), scope=None)


def test_without_a_list_an_open_door_lets_everybody_in():
    """`access.open` means what it says, where there is no list."""
    assert access(open=True).admit(STRANGER, sent(), scope="inference") == Client(STRANGER)


def test_open_does_not_outweigh_a_list():
    """A list holds even where `access.open` is set."""
    with pytest.raises(AccessDenied):
        access(open=True, allow=("10.0.0.0/8",)).admit(STRANGER, sent(), scope="inference")


def test_nothing_set_means_loopback_only():
    """Without keys, a list or `open`, only loopback gets in."""
    with pytest.raises(AccessDenied):
        access().admit(LAN, sent(), scope=None)


# Keys


@pytest.mark.parametrize(
    "header",
    [
        bearer("webui"),
        ("authorization", "bearer   sk-webui "),
        ("AUTHORIZATION", "BEARER sk-webui"),
        ("X-Api-Key", "sk-webui"),
        ("x-api-key", " sk-webui "),
    ],
)
def test_a_key_is_a_client(header):
    """A known key, as OpenAI's or as Anthropic's clients send it, is a client by name, with its models."""
    client = access(keys=KEYS).admit(STRANGER, sent(header), scope="inference")

    assert client == Client("webui", ("qwen*",), KEYS[0])


@pytest.mark.parametrize("name", ["webui", "ops", "all"])
def test_each_key_works(name):
    """A key works wherever it stands in the list; some routes ask for no scope."""
    assert access(keys=KEYS).admit(LOOPBACK, sent(bearer(name)), scope=None).name == name


def test_a_key_goes_with_another_scheme():
    """Credentials of another scheme, which a proxy in between may want, leave `x-api-key` its word."""
    headers = sent(("Authorization", "Basic dTpw"), ("x-api-key", "sk-all"))

    assert access(keys=KEYS).admit(LAN, headers, scope="inference").name == "all"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", "sk-webui")],
        [("Authorization", "Basic sk-webui")],
        [("Authorization", "Bearer sk-webuI")],
        [("Authorization", "Bearer sk-webui,")],
        [("Authorization", f"Bearer {KEYS[0].sha256}")],
        [("Authorization", "Bearer wrong"), ("x-api-key", "sk-webui")],
        [("Authorization", "Bearer \udcff\udcfe")],
        [("x-api-key", "é\udcff")],
        [("Cookie", "key=sk-webui")],
    ],
)
@pytest.mark.parametrize("peer", [LOOPBACK, LAN])
def test_without_a_known_key_nobody_gets_in(peer, headers):
    """Where there are keys everybody needs one, loopback too; whatever else is sent is no key."""
    with pytest.raises(InvalidKey):
        access(keys=KEYS).admit(peer, sent(*headers), scope=None)


def test_nothing_is_no_key():
    """Not even a list with the hash of nothing lets in who sends nothing."""
    nothing = config.Key.model_construct(
        name="oops", sha256=hashlib.sha256(b"").hexdigest(), scopes=("inference",), models=("*",)
    )
    door = Access(
        config.AccessSection.model_construct(open=False, allow=(), trusted_proxies=(), keys=(nothing,))
    )

    with pytest.raises(InvalidKey):
        door.admit(LAN, sent(), scope="inference")


@pytest.mark.parametrize(("name", "scope"), [("webui", "admin"), ("webui", "debug"), ("ops", "inference")])
def test_a_key_without_the_scope_may_not(name, scope):
    """A key may do only what its scopes say."""
    with pytest.raises(AccessDenied, match="scope"):
        access(keys=KEYS).admit(LAN, sent(bearer(name)), scope=scope)


@pytest.mark.parametrize(
    ("scopes", "path"),
    [
        (("front",), "/v1/chat/completions"),
        (("front",), "/node/view"),
        (("debug",), "/node/view"),
    ],
)
def test_what_opens_to_a_front(scopes, path):
    """A front may ask models, and see how the node stands; who debugs sees that, too."""
    door = access(keys=(key("k", scopes=scopes),))

    assert door.admit(LAN, sent(bearer("k")), scope=scope_of(path)).is_front is ("front" in scopes)


@pytest.mark.parametrize(("scope", "path"), [("inference", "/node/view"), ("front", "/debug/status")])
def test_what_does_not_open_to_or_for_a_front(scope, path):
    """Nobody else sees how a node stands, and a front sees nothing more."""
    with pytest.raises(AccessDenied, match="scope"):
        access(keys=(key("k", scopes=(scope,)),)).admit(LAN, sent(bearer("k")), scope=scope_of(path))


@pytest.mark.parametrize(
    "reader", [key("k"), key("k", scopes=("admin",)), key("k", models=("qwen*",), scopes=("debug",))]
)
def test_who_may_know_all_models_reads_the_metrics(reader):
    """The metrics name every model: a key reads them that may use them all, or that has `debug`."""
    assert access(keys=(reader,)).admit(LAN, sent(bearer("k")), scope=scope_of("/metrics")).name == "k"


@pytest.mark.parametrize("scopes", [("inference",), ("inference", "admin")])
def test_who_may_not_know_all_models_reads_no_metrics(scopes):
    """A key for some of the models learns nothing of the others."""
    door = access(keys=(key("k", models=("qwen*",), scopes=scopes),))

    with pytest.raises(AccessDenied, match="lacks the scope 'debug' or the use of all models"):
        door.admit(LAN, sent(bearer("k")), scope=scope_of("/metrics"))


@pytest.mark.parametrize(
    ("lists", "peer", "headers", "scope"),
    [
        ({"keys": KEYS}, LAN, [("Authorization", "Bearer sk-SECRET")], None),
        ({"keys": KEYS}, LAN, [("x-api-key", "sk-SECRET")], None),
        ({"keys": (*KEYS, key("SECRET"))}, LAN, [bearer("SECRET")], "admin"),
        ({"allow": ("10.0.0.0/8",), "keys": KEYS}, LAN, [("Authorization", "Bearer sk-SECRET")], None),
    ],
)
def test_a_refusal_does_not_tell_the_key(lists, peer, headers, scope):
    """What was sent as a key stands in no refusal."""
    with pytest.raises(DmapError) as refused:
        access(**lists).admit(peer, sent(*headers), scope=scope)

    assert (
        "sk-SECRET"
        not in f"{refused.value} {refused.value!r} {refused.value.body()} {refused.value.headers()}"
    )


# What a path needs


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        *((path, "inference") for path in ROUTES),
        ("/v1/anything", "inference"),
        ("/api/v1/models/load", "inference"),
        ("/v1/models", None),
        ("/v1/models/qwen/7b", None),
        ("/api/v0/models", None),
        ("/api/v0/models/qwen/7b", None),
        ("/api/v1/models", None),
        ("/ready", None),
        ("/metrics", "metrics"),
        ("/admin", "admin"),
        ("/admin/models/load", "admin"),
        ("/debug", "debug"),
        ("/debug/stream", "debug"),
        ("/administrator", None),
        ("/", None),
        ("/node/view", "front"),
        ("", None),
    ],
)
def test_a_path_needs_a_scope(path, scope):
    """Models are for inference, `/debug` and `/admin` for scopes of their own; lists take any key."""
    assert scope_of(path) == scope


@pytest.mark.parametrize(
    ("peer", "headers", "may_watch"),
    [(LOOPBACK, (), True), (LAN, (), False), (LOOPBACK, (("Origin", "http://localhost:3000"),), False)],
)
def test_without_keys_who_asks_from_this_host_may_watch(peer, headers, may_watch):
    """Only this host reads what servers have written, and there no page of a browser."""
    door = access(allow=("192.168.1.0/24",), cors=("http://localhost:3000",))

    assert door.admit(peer, sent(*headers), scope="inference").may_watch is may_watch


@pytest.mark.parametrize("scope", ["admin", "debug", "front"])
def test_without_keys_what_is_private_is_for_this_host(scope):
    """Without keys `/admin` and `/debug` are served to loopback only, by the address that speaks."""
    door = access(open=True, trusted_proxies=(LOOPBACK,))

    assert door.admit(LOOPBACK, sent(), scope=scope) == Client(LOOPBACK, may_watch=True, is_front=True)
    with pytest.raises(AccessDenied, match="this host"):
        door.admit(LAN, sent(), scope=scope)
    with pytest.raises(AccessDenied, match="this host"):
        door.admit(LOOPBACK, sent(("X-Forwarded-For", LAN)), scope=scope)


# Expiry


@pytest.mark.parametrize("expires", ["2030-01-31", "2030-01-31T01:00:00+01:00"])
def test_a_key_expires(expires):
    """A key is refused from its day on; its owner is told why, and it is no guess."""
    clock = Clock(datetime(2030, 1, 30, 23, 59, 59, tzinfo=UTC).timestamp())
    door = Access(config.AccessSection(keys=(key("old", expires=expires),)), now=clock)
    assert door.admit(LAN, sent(bearer("old")), scope=None).name == "old"

    clock.now += 1

    with pytest.raises(InvalidKey, match="'old' expired on 2030-01-31"):
        door.admit(LAN, sent(bearer("old")), scope=None)
    assert not door.failures.paces


# Guessing


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def guess(door: Access, peer: str, times: int, *lines: tuple[str, str]) -> None:
    """Try a wrong key from *peer* so many times."""
    refused(door, InvalidKey, peer, (bearer("wrong"), *lines), times=times)


def refused(
    door: Access,
    why: type[DmapError],
    peer: str,
    lines: tuple[tuple[str, str], ...],
    *,
    scope: str | None = None,
    times: int = 1,
) -> None:
    """Ask so many times, each refused."""
    for _ in range(times):
        with pytest.raises(why):
            door.admit(peer, sent(*lines), scope=scope)


@pytest.mark.parametrize(
    ("peer", "same"),
    [(LAN, f"::ffff:{LAN}"), ("fd00:1:2:3::1", "fd00:1:2:3:ffff::9"), (LOOPBACK, LOOPBACK), ("::1", "::1")],
)
def test_who_guesses_is_not_listened_to(peer, same):
    """After too many wrong keys not even a right one is looked at, until some time has gone by."""
    clock = Clock()
    door = Access(config.AccessSection(keys=KEYS, failures_per_min=5), clock=clock)
    guess(door, peer, 5)

    with pytest.raises(Overloaded) as refused:
        door.admit(same, sent(bearer("all")), scope=None)
    clock.now += float(refused.value.headers()["Retry-After"])

    assert door.admit(same, sent(bearer("all")), scope=None).name == "all"
    assert len(door.failures.paces) == 1


@pytest.mark.parametrize(("peer", "other"), [(LAN, "192.168.1.21"), ("fd00:1:2:3::1", "fd00:1:2:4::1")])
def test_others_do_not_pay_for_a_guesser(peer, other):
    """Only the address that guessed is refused, of IPv6 its /64."""
    door = access(keys=KEYS, failures_per_min=1)
    guess(door, peer, 1)

    assert door.admit(other, sent(bearer("all")), scope=None).name == "all"


def test_behind_a_proxy_the_guesser_pays():
    """Who guesses through a proxy is refused by its own address, not the proxy's."""
    door = access(keys=KEYS, failures_per_min=1, trusted_proxies=(PROXY,))
    guess(door, PROXY, 1, ("X-Forwarded-For", STRANGER))

    assert door.admit(PROXY, sent(bearer("all"), ("X-Forwarded-For", LAN)), scope=None).name == "all"
    with pytest.raises(Overloaded):
        door.admit(STRANGER, sent(bearer("all")), scope=None)


def test_no_key_is_no_guess():
    """Who sends no key is refused and not counted: a probe or a browser has guessed nothing."""
    door = access(keys=KEYS, failures_per_min=1)

    refused(door, InvalidKey, LAN, (), times=3)

    assert door.admit(LAN, sent(bearer("all")), scope=None).name == "all"


def test_a_wrong_scope_is_no_guess():
    """A right key with the wrong scope is refused and not counted."""
    door = access(keys=KEYS, failures_per_min=1)

    refused(door, AccessDenied, LAN, (bearer("webui"),), scope="admin", times=3)

    assert not door.failures.paces


# After a reload


def test_counts_outlive_a_reload():
    """What is under way and who has guessed is known after a reload; limits are the new ones."""
    door = access(keys=(key("k", parallel=1),), failures_per_min=1)
    guess(door, STRANGER, 1)

    door.begin(door.admit(LAN, sent(bearer("k")), scope=None), "/")
    door.configure(config.AccessSection(keys=(key("k", parallel=2),), failures_per_min=1))
    client = door.admit(LAN, sent(bearer("k")), scope=None)
    door.begin(client, "/")

    with pytest.raises(Overloaded):
        door.begin(client, "/")
    with pytest.raises(Overloaded):
        door.admit(STRANGER, sent(bearer("k")), scope=None)

    door.end(client, 1)
    door.end(client, 1)
    door.begin(client, "/")
    door.begin(client, "/")


def test_what_a_key_brings():
    """A key's priority and permitted fields are its client's."""
    given = key("k", priority=3, permit=("draft_model",))

    client = access(keys=(given,)).admit(LAN, sent(bearer("k")), scope="inference")

    assert client == Client("k", key=given, priority=3, permit=frozenset(("draft_model",)))


def test_each_key_has_its_own_bounds():
    """A key that is full stands in nobody's way."""
    one, other = Client("a", key=key("a", parallel=1)), Client("b", key=key("b", parallel=1))
    door = access()
    door.begin(one, "/")

    door.begin(other, "/")

    with pytest.raises(Overloaded, match="'a' has 1 under way"):
        door.begin(one, "/")


def test_an_address_has_no_bounds_of_its_own():
    """Who has no key is not counted: names would have no end."""
    door = access()
    client = door.admit(LOOPBACK, sent(), scope="inference")

    door.begin(client, "/")
    door.end(client, 1)

    assert not door.usages


# Load balancers


def test_a_load_balancer_is_told_without_a_key():
    """An address that may connect needs no key for `/ready`, and may use nothing; a wrong key is refused."""
    door = Access(config.AccessSection(keys=KEYS, allow=("192.168.1.0/24",)))

    assert door.admit(LAN, sent(), scope=None, path="/ready") == Client(LAN, models=())
    with pytest.raises(AccessDenied):
        door.admit(STRANGER, sent(), scope=None, path="/ready")
    with pytest.raises(InvalidKey):
        door.admit(LAN, sent(bearer("PLANTED")), scope=None, path="/ready")
    with pytest.raises(InvalidKey):
        door.admit(LAN, sent(), scope=None, path="/v1/models")


# What is told


def test_a_refusal_is_told():
    """Each refusal is told with who, where and why, and without the key."""
    told = []
    door = Access(
        config.AccessSection(
            keys=(*KEYS, key("one", parallel=1)), failures_per_min=1, allow=("192.168.1.0/24",)
        ),
        tell=lambda type, fields: told.append((type, dict(fields))),
    )

    with pytest.raises(AccessDenied):
        door.admit(STRANGER, sent(bearer("all")), scope=None, path="/ready")
    with pytest.raises(AccessDenied):
        door.admit(LAN, sent(bearer("webui")), scope="admin", path="/admin/x")
    with pytest.raises(InvalidKey):
        door.admit(LAN, sent(bearer("PLANTED")), scope=None, path="/v1/models")
    with pytest.raises(Overloaded):
        door.admit(LAN, sent(bearer("PLANTED")), scope=None, path="/v1/models")
    one = Client("one", key=key("one", parallel=1))
    door.begin(one, "/v1/embeddings")
    with pytest.raises(Overloaded):
        door.begin(one, "/v1/embeddings")

    assert {type for type, _ in told} == {"access.denied"}
    assert [(f["client"], f["path"], f["status"], f["code"]) for _, f in told] == [
        (STRANGER, "/ready", 403, "access_denied"),
        (LAN, "/admin/x", 403, "access_denied"),
        (LAN, "/v1/models", 401, "invalid_api_key"),
        (LAN, "/v1/models", 429, "rate_limit_exceeded"),
        ("one", "/v1/embeddings", 429, "rate_limit_exceeded"),
    ]
    assert "PLANTED" not in str(told) and all(fields["reason"] for _, fields in told)


# Models


@pytest.mark.parametrize(
    ("globs", "names", "may"),
    [
        (("*",), ("qwen",), True),
        (("qwen*",), ("qwen2.5",), True),
        (("qwen*",), ("Qwen2.5",), False),
        (("qwen*",), ("my/qwen",), False),
        (("gpt-4o",), ("qwen", "gpt-4o"), True),
        (("q?en", "[ab]*"), ("b",), True),
        ((), ("qwen",), False),
        (("",), ("qwen",), False),
    ],
)
def test_a_key_has_its_models(globs, names, may):
    """A client may use a model if one of its globs matches one of the model's names, letter by letter."""
    assert Client("c", globs).may_use(*names) is may


# Proxies


@pytest.mark.parametrize(
    "header",
    [
        ("X-Forwarded-For", LOOPBACK),
        ("x-forwarded-for", LAN),
        ("Forwarded", "for=127.0.0.1"),
        ("X-Real-IP", LOOPBACK),
        ("X-Forwarded-Host", "localhost"),
        ("X-Forwarded-For", ""),
    ],
)
@pytest.mark.parametrize("peer", [LAN, LOOPBACK])
def test_forwarding_headers_of_a_stranger_are_refused(peer, header):
    """Who is no trusted proxy may not say whom it speaks for, not even on loopback."""
    door = access(allow=("192.168.1.0/24",), trusted_proxies=(PROXY,))

    with pytest.raises(AccessDenied, match="trusted_proxies"):
        door.admit(peer, sent(header), scope=None)


@pytest.mark.parametrize(
    ("hops", "speaker"),
    [
        ([LAN], LAN),
        ([f"{STRANGER}, {LAN}"], LAN),
        ([f"127.0.0.1, {LAN}"], LAN),
        ([f"nonsense, {LAN}, {PROXY}"], LAN),
        ([f"{LAN},{PROXY} , 10.0.0.3"], LAN),
        ([STRANGER, LAN], LAN),
        ([f"127.0.0.1, {PROXY}", f" {LAN}", PROXY], LAN),
        (["::ffff:192.168.1.20"], LAN),
        (["fd00::1:2"], "fd00::/64"),
        (["192.168.1.7, 10.0.0.3"], "192.168.1.7"),
    ],
)
@pytest.mark.parametrize("peer", [PROXY, f"::ffff:{PROXY}"])
def test_the_last_hop_that_is_no_proxy_speaks(peer, hops, speaker):
    """Of all lines of `X-Forwarded-For`, in their order, the last address that is no trusted proxy counts."""
    door = access(allow=("192.168.1.0/24", "fd00::/16"), trusted_proxies=("10.0.0.0/24",))
    headers = sent(*(("X-Forwarded-For", line) for line in hops))

    assert door.admit(peer, headers, scope=None).name == speaker


@pytest.mark.parametrize(
    "lines",
    [
        [("X-Forwarded-For", STRANGER)],
        [("X-Forwarded-For", f"{LAN}, {STRANGER}")],
        [("X-Forwarded-For", f"{LAN}, {STRANGER}, {PROXY}")],
        [("X-Forwarded-For", LAN), ("X-Forwarded-For", STRANGER)],
        [("X-Forwarded-For", LAN), ("x-forwarded-for", f"{STRANGER}, {PROXY}")],
        [("X-Forwarded-For", f"{LAN}, unknown")],
        [("X-Forwarded-For", f"{LAN}, {STRANGER}:443")],
        [("X-Forwarded-For", "10.0.0.3")],
        [("X-Forwarded-For", LOOPBACK)],
        [("X-Forwarded-For", "::1")],
        [("X-Forwarded-For", f"::ffff:127.0.0.1, {PROXY}")],
        [("X-Forwarded-For", "")],
        [("X-Forwarded-For", " , ")],
        [("X-Real-IP", LAN)],
        [("Forwarded", f"for={LAN}")],
        [("X-Forwarded-Host", "localhost")],
    ],
)
def test_a_client_cannot_choose_its_hop(lines):
    """What stands before the last untrusted hop is the client's own word; without a hop nobody speaks."""
    door = access(allow=("192.168.1.0/24",), trusted_proxies=("10.0.0.0/24",))

    with pytest.raises(AccessDenied):
        door.admit(PROXY, sent(*lines), scope=None)


@pytest.mark.parametrize(
    "lines", [[("X-Real-IP", LAN)], [("X-Forwarded-For", STRANGER)], [("X-Forwarded-For", PROXY)]]
)
def test_a_proxy_on_loopback_does_not_lend_its_address(lines):
    """Whoever comes through a proxy on this host is not on this host for that."""
    door = access(allow=("192.168.1.0/24",), trusted_proxies=("127.0.0.0/8", "10.0.0.0/24"))

    with pytest.raises(AccessDenied):
        door.admit(LOOPBACK, sent(*lines), scope=None)


def test_this_host_through_its_own_proxy_is_this_host():
    """Loopback through a proxy on loopback is loopback."""
    door = access(allow=("192.168.1.0/24",), trusted_proxies=("127.0.0.1",))

    assert door.admit(LOOPBACK, sent(("X-Forwarded-For", LOOPBACK)), scope=None).name == LOOPBACK


# For any request

_addresses = st.sampled_from(
    [LOOPBACK, "::1", LAN, STRANGER, PROXY, "10.0.0.3", "::ffff:10.0.0.2", "fd00::5", "x", ""]
)
_hops = st.lists(_addresses, max_size=3).map(", ".join)
_secrets = st.sampled_from(["sk-webui", "sk-ops", "sk-all", "sk-webui ", "", "sk-", KEYS[0].sha256])
_lines = st.one_of(
    st.tuples(st.sampled_from(["X-Forwarded-For", "x-forwarded-for", "Forwarded", "X-Real-IP"]), _hops),
    st.tuples(
        st.just("Authorization"),
        st.builds("{} {}".format, st.sampled_from(["Bearer", "Basic", ""]), _secrets),
    ),
    st.tuples(st.just("x-api-key"), _secrets),
    st.tuples(st.just("Origin"), st.sampled_from(["http://localhost", "http://evil.example"])),
    st.tuples(st.text(min_size=1, max_size=5), st.text(max_size=5)),
)


@settings(max_examples=400)
@given(_addresses, st.lists(_lines, max_size=5), st.sampled_from([None, "inference", "admin", "debug"]))
def test_no_request_gets_in_without_all_three(peer, lines, scope):
    """Whatever is sent: who is admitted has an address on the list, a key that was sent, and its scope."""
    door = access(allow=("192.168.1.0/24", "10.0.0.2"), trusted_proxies=("10.0.0.2", "10.0.0.3"), keys=KEYS)
    headers = sent(*lines)

    try:
        name = door.admit(peer, headers, scope=scope).name
    except (AccessDenied, InvalidKey):
        return

    (used,) = (each for each in KEYS if each.name == name)
    assert any(f"sk-{name}" in value for header, value in lines if header in ("Authorization", "x-api-key"))
    assert scope is None or scope in used.scopes
    forwarded = [hop.strip() for value in headers.getall("X-Forwarded-For", []) for hop in value.split(",")]
    assert {peer, *forwarded} & {LAN, PROXY, "::ffff:10.0.0.2", LOOPBACK, "::1"}
    assert [hop for hop in (peer, *forwarded) if hop not in ("", "10.0.0.3")][-1] not in (
        STRANGER,
        "fd00::5",
        "x",
    )


def test_who_asks_by_a_front_may_not_watch() -> None:
    """A front's key may read what servers have written, if it has `debug`; those for whom it asks may not."""
    front = Client.of(config.Key(name="fronts", sha256="0" * 64, scopes=("front", "debug")))

    asks = front.asking_for(Hop("anna"))

    assert (front.may_watch, asks.may_watch, asks.name) == (True, False, "anna")
