"""dmap from the environment alone, without a file, as a container starts it."""

import hashlib
from pathlib import Path

import pytest

from dmap.cli import main
from dmap.config import ConfigProblem, from_environment
from tests.fakes import FakeBackend
from tests.lmstudio_emulator import emulator
from tests.process import daemon
from tests.test_service import asked

HASH = hashlib.sha256(b"k").hexdigest()
URL = {"DMAP_BACKEND_URL": "http://127.0.0.1:9"}
LOOPBACK = {"DMAP_LISTEN": "127.0.0.1:0"}


def problems_of(**environ: str) -> list[str]:
    """Return what is wrong with these variables."""
    with pytest.raises(ConfigProblem) as refused:
        from_environment({**URL, **environ}, "openai")
    return refused.value.problems


def test_a_url_is_enough() -> None:
    """With a URL alone dmap listens on loopback, and needs no key."""
    config = from_environment(URL, "openai")

    assert (config.listen.host, config.listen.port, config.access.keys) == ("127.0.0.1", 8000, ())
    assert config.backends["server"].kind == "openai"


@pytest.mark.parametrize(
    ("written", "address"),
    [("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:8000", ("::1", 8000)), ("localhost:0", ("localhost", 0))],
)
def test_addresses(written: str, address: tuple[str, int]) -> None:
    """An address is a host and a port; one of IPv6 stands in brackets."""
    listen = from_environment({**URL, "DMAP_LISTEN": written, "DMAP_KEYS": HASH}, "openai").listen

    assert (listen.host, listen.port) == address


@pytest.mark.parametrize("written", [f"webui:{HASH},{HASH[::-1]}", f" webui:{HASH}\n{HASH[::-1]} "])
def test_keys(written: str) -> None:
    """Keys are known by their SHA-256, with a name or without one, and commas or spaces between."""
    keys = from_environment({**URL, "DMAP_KEYS": written}, "openai").access.keys

    assert [(key.name, key.sha256) for key in keys] == [("webui", HASH), ("key2", HASH[::-1])]


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({"DMAP_BACKEND_URL": "lmstudio:1234"}, "DMAP_BACKEND_URL: not a URL; write it like http://"),
        ({"DMAP_LISTEN": "8000"}, "DMAP_LISTEN: not an address to listen at; write it like 0.0.0.0:8000"),
        ({"DMAP_LISTEN": ":8000"}, "DMAP_LISTEN: not an address to listen at"),
        ({"DMAP_LISTEN": "127.0.0.1:80000"}, "DMAP_LISTEN: must be 65535 or less"),
        ({"DMAP_LISTEN": "0.0.0.0:8000"}, "DMAP_LISTEN: 0.0.0.0 is open to others; set DMAP_KEYS"),
        ({"DMAP_KEYS": ""}, "DMAP_KEYS: empty; write the SHA-256 of each key"),
        ({"DMAP_KEYS": f"{HASH},sk-SECRET"}, "DMAP_KEYS, item 2: not a SHA-256"),
        ({"DMAP_KEYS": f"sk SECRET:{HASH}"}, "DMAP_KEYS, item 1: not a SHA-256"),
        ({"DMAP_KEYS": f"a:{HASH},a:{HASH[::-1]}"}, "DMAP_KEYS, item 2: that of item 1 too"),
        ({"DMAP_LISTN": "x"}, "DMAP_LISTN: no such variable; did you mean DMAP_LISTEN?"),
    ],
)
def test_what_is_wrong(environ: dict[str, str], problem: str) -> None:
    """What is wrong is told with its variable, and never with what is in it."""
    problems = problems_of(**environ)

    assert problems[0].startswith(problem)
    assert "SECRET" not in "".join(problems)


def test_all_is_told_at_once() -> None:
    """Each variable that is wrong is told."""
    told = problems_of(DMAP_BACKEND_URL="h", DMAP_LISTEN="x", DMAP_KEYS="y", DMAP_KEYZ="z")

    assert {problem.partition(":")[0] for problem in told} == {
        "DMAP_LISTEN",
        "DMAP_KEYZ",
        "DMAP_BACKEND_URL",
        "DMAP_KEYS, item 1",
    }


@pytest.mark.parametrize(
    ("kind", "guess"), [("lmstduio", "; did you mean lmstudio?"), ("gguf", ""), ("process", ""), ("", "")]
)
def test_a_kind_that_is_not_there(kind: str, guess: str) -> None:
    """A kind that is none, or takes more than a URL, is told with its variable, and nothing else is."""
    with pytest.raises(ConfigProblem) as caught:
        from_environment(URL, kind)

    assert caught.value.problems == [
        f"DMAP_BACKEND_KIND: must be lmstudio or openai; any other takes a file{guess}"
    ]


@pytest.mark.parametrize("command", ["serve", "check-config"])
def test_neither_a_file_nor_variables(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a file and without the URL the command line is wrong."""
    monkeypatch.delenv("DMAP_BACKEND_URL", raising=False)

    with pytest.raises(SystemExit) as ended:
        main([command])

    assert ended.value.code == 2
    assert "name a FILE, or set DMAP_BACKEND_URL" in capsys.readouterr().err


def test_nobody_answers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer has no kind: it is waited for by whoever starts dmap again."""
    monkeypatch.setenv("DMAP_BACKEND_URL", "http://127.0.0.1:9")

    assert main(["serve"]) == 1
    assert capsys.readouterr().err == (
        "dmap: DMAP_BACKEND_URL: it does not answer, so its kind is not known; "
        "set DMAP_BACKEND_KIND to lmstudio or openai\n"
    )


async def test_an_lm_studio_is_known(tmp_path: Path) -> None:
    """An LM Studio is found to be one, and its models are switched."""
    async with emulator() as studio:
        variables = {"DMAP_BACKEND_URL": studio.url, **LOOPBACK}
        async with daemon(tmp_path, None, **variables) as process:
            ready = await asked(
                process.url, b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            )

    assert b'"gpu0"' in ready


async def test_any_server_with_keys(tmp_path: Path, backend: FakeBackend) -> None:
    """Any other server is one with OpenAI's API; where there are keys, nobody gets in without one."""
    variables = {"DMAP_BACKEND_URL": backend.url, "DMAP_KEYS": f"webui:{HASH}", **LOOPBACK}
    request = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n%s\r\n"

    async with daemon(tmp_path, None, **variables) as process:
        without = await asked(process.url, request % b"")
        with_key = await asked(process.url, request % b"Authorization: Bearer k\r\n")

    assert without.startswith(b"HTTP/1.1 401 ")
    assert with_key.startswith(b"HTTP/1.1 200 ") and b'"m"' in with_key


def test_check_config_of_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`check-config` without a file looks at the variables."""
    monkeypatch.setenv("DMAP_BACKEND_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("DMAP_BACKEND_KIND", "openai")

    assert main(["check-config"]) == 0
    told = capsys.readouterr()
    assert told.out == "the environment: ok\n"
    assert told.err.startswith("warning: DMAP_BACKEND_URL: could not be asked what models it has: ")
