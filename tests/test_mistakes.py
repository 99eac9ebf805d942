"""
Mistakes in configurations, as people make them: each is told in one run, with its line and column.

`mistakes.txt` has them: the files, and of each a part of what is told.  `^` stands in front of the place that
is told, and is not in the file.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dmap.cli import main
from dmap.config import Config, ConfigProblem, checked

CASES = re.findall(
    r"^=== (.*)\n((?s:.*?))\n--- (.*)$", (Path(__file__).parent / "mistakes.txt").read_text(), re.MULTILINE
)
ODD = [
    ("YAML: a control character", "listen: {host: ^\x07}", "a character that no text has"),
    ("YAML: a huge number", f"listen: {{port: ^{'9' * 101}}}", "a number of 101 characters"),
    ("YAML: brackets without end", "[" * 100 + "^" + "[" * 4900, "more than 100 lists and mappings"),
    ("shapes: an empty file", "^", "backends: missing"),
]
ERRORS = [case for case in (*CASES, *ODD) if not case[0].startswith("warning")]
WARNINGS = [case for case in CASES if case[0].startswith("warning")]
A = "backends: {a: {kind: openai, url: 'http://127.0.0.1:9'}}\n"
LIBRARIES = re.compile(
    r"Input should|Field required|Extra inputs|a valid|Traceback|but found|Errno|PyYAML|pydantic"
)
"""What libraries say."""

Check = Callable[[str | bytes], tuple[int, list[str]]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """Have the command check a text as `c.yaml`, beside an empty model; return its exit code and lines."""
    monkeypatch.chdir(tmp_path)
    Path("qwen.gguf").touch()

    def run(text: str | bytes) -> tuple[int, list[str]]:
        Path("c.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        Path("c.yaml").chmod(0o644)
        code = main(["check-config", "c.yaml"])
        return code, capsys.readouterr().err.splitlines()

    return run


def place_of(text: str) -> str:
    """Return the line and the column of the mark in *text*."""
    before = text.partition("^")[0]
    return f"c.yaml:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}: "


def test_there_are_enough() -> None:
    """There are so many mistakes, each in a file of its own."""
    assert len({text for _, text, _ in ERRORS + WARNINGS}) >= 102


@pytest.mark.parametrize(("text", "words"), [pytest.param(*case[1:], id=case[0]) for case in ERRORS])
def test_a_mistake(check: Check, text: str, words: str) -> None:
    """A mistake ends the command with 78, and is told where it is, in words of dmap's own."""
    code, lines = check(text.replace("^", ""))

    assert code == 78
    assert [line for line in lines if line.startswith(place_of(text)) and words in line] != []
    assert [line for line in lines if LIBRARIES.search(line) or not line.startswith("c.yaml:")] == []


@pytest.mark.parametrize(
    ("text", "words"), [case[1:] for case in WARNINGS], ids=[case[0] for case in WARNINGS]
)
def test_a_warning(check: Check, text: str, words: str) -> None:
    """What is allowed but hardly meant is told where it is, as a warning; the exit code is 0."""
    code, lines = check(text.replace("^", ""))

    assert code == 0
    assert [line for line in lines if line.startswith(f"{place_of(text)}warning: ") and words in line] != []
    assert [line for line in lines if LIBRARIES.search(line)] == []


def test_a_warning_of_several_devices(check: Check) -> None:
    """What is said of a backend on several devices is told once."""
    _, lines = check("devices: {g: {}, h: {}}\nbackends: {e: {kind: gguf, path: ., devices: [g, h]}}")

    assert len([line for line in lines if "cannot load model 'qwen'" in line]) == 1


ALL_AT_ONCE = """\
^listn: {port: 8000}
listen:
  host: ^'localhost
access: {^open: ture, allow: [^192.168.1.17/24]}
devices:
  gpu0: {memory: 8GiB, ^maxModels: 2}
  gpu1: {max_models: 1}
backends:
  a: {kind: lmstudio, ^url: '127.0.0.1:1234', device: gpu0}
  b: {kind: lmstudio, url: 'http://127.0.0.1:1234', ^device: gpu}
  ^c: {kind: openai}
models:
  m: {backend: a, ^memory: 9GiB, aliases: [x], ^tempreature: 1}
  n: {^backend: d, ^aliases: [x]}
  o: {backend: c, ^pin: 5}
server: {^idle_s: 5m, ^body_s: 1:30, ^heartbeat_s: on}
log: {}
^log: {}
"""


def test_one_hides_no_other(check: Check) -> None:
    """Mistakes of the text, of shapes and of meanings are told in one run, in the order of the file."""
    *parts, _ = ALL_AT_ONCE.split("^")
    places = [place_of("".join(parts[: at + 1]) + "^") for at in range(len(parts))]

    code, lines = check(ALL_AT_ONCE.replace("^", ""))

    assert code == 78
    assert [re.sub(" .*", " ", line) for line in lines] == places


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ("{box: {url: 'http://10.0.0.1:8000', api_key: k}}", "nodes.box: url: its key and all prompts"),
        ("{box: {url: 'http://127.0.0.1:9', api-key: k}}", "nodes.box.api-key: no such key"),
        ("{box: https://box1:8000}\nmodels: {m: {backend: box}}", "nodes.box: must be a mapping"),
        ("[{url: 'http://127.0.0.1:9', api_key: k}]", "nodes: must be a mapping"),
    ],
)
def test_a_front_with_a_wrong_node(check: Check, nodes: str, told: str) -> None:
    """A front whose node is wrong has a place for its models all the same: no backend is missing."""
    _, lines = check(f"nodes: {nodes}\n")

    assert [line for line in lines if told in line] != []
    assert [line for line in lines if "backends: missing" in line or "no backend" in line] == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (A.encode() + b"state: \xe4\n", "c.yaml: cannot be read: what stands in line 2 is no text in UTF-8"),
        (A.encode("utf-16"), "c.yaml: cannot be read: it is UTF-16; save it as UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00", "c.yaml:1:1: a character that no text has (code 127)"),
        (A.encode("utf-16-le"), "c.yaml:1:2: a character that no text has (code 0)"),
    ],
    ids=["Latin-1", "UTF-16", "a program", "UTF-16 without its mark"],
)
def test_what_is_no_text(check: Check, content: bytes, told: str) -> None:
    """A file that is no text in UTF-8 is told so."""
    assert check(content) == (78, [told])


@pytest.mark.parametrize("before", ["\ufeff", "", "# é\r\n"])
def test_editors_of_windows(check: Check, before: str) -> None:
    """A mark in front of UTF-8 and line ends of Windows are no mistakes, and move no place."""
    code, lines = check(f"{before}{A}listen:\r\n  prot: 1\r\n")

    line = 3 + before.count("\n")
    assert (code, lines) == (78, [f"c.yaml:{line}:3: listen.prot: no such key; did you mean port?"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("c.yml", "c.yml: cannot be read: there is no such file; did you mean c.yaml?"),
        ("nowhere/x", "nowhere/x: cannot be read: there is no such file"),
        (".", ".: cannot be read: it is a folder; name the file in it"),
        ("a\0b", "a\0b: cannot be read: no file can have this name"),
    ],
)
def test_no_such_file(check: Check, capsys: pytest.CaptureFixture[str], name: str, told: str) -> None:
    """A file that cannot be opened is told with what is there instead."""
    check(A)

    assert main(["check-config", name]) == 78
    assert capsys.readouterr().err == f"{told}\n"


def test_a_file_that_all_may_not_read(check: Check) -> None:
    """A secret in plain text is no matter where nobody but the owner may read the file."""
    check(A)
    Path("d.yaml").write_text(A.replace("9'", "9', api_key: sk-1"))
    Path("d.yaml").chmod(0o600)

    assert main(["check-config", "d.yaml"]) == 0


def test_variables_are_no_secrets(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that comes from the environment does not stand in the file."""
    monkeypatch.setenv("MY_KEY", "sk-1")

    _, lines = check(A.replace("9'", "9', api_key: '${MY_KEY}'"))

    assert [line for line in lines if "secret" in line] == []


@pytest.mark.parametrize(
    "text", ["server: {body_s: 1e3}", "listen: {names: [a.b]}", "models: {7: {}, on: {}}"]
)
def test_what_is_no_mistake(check: Check, text: str) -> None:
    """What looks odd but can only mean one thing is taken."""
    assert check(A + text)[0] == 0


def with_each(values: Any, odd: Any) -> Iterator[Any]:
    """Yield *values* with *odd* in the place of each value in it, one after the other."""
    inner = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in list(inner):
        for changed in (odd, *with_each(value, odd)):
            copied = values.copy()
            copied[key] = changed
            yield copied


def problems_of(values: Any) -> list[str]:
    """Return what is wrong with *values*."""
    try:
        checked(Config, values, defaultdict(str))
    except ConfigProblem as exc:
        return exc.problems
    return []


@pytest.mark.parametrize(
    "odd",
    [None, [1], {"a": {"b": 1}}, float("nan"), "x" * 70_000],
    ids=["nothing", "a list", "a mapping", "no number", "a long text"],
)
def test_there_are_words_for_all(odd: Any) -> None:
    """Whatever stands in the place of whatever value, there are words of dmap's own for it."""
    example = yaml.safe_load((Path(__file__).parent.parent / "config.example.yaml").read_text())

    told = [problem for values in with_each(example, odd) for problem in problems_of(values)]

    assert len(told) > 100
    assert [problem for problem in told if LIBRARIES.search(problem) or "cannot be taken" in problem] == []


def test_warnings_beside_mistakes(check: Check) -> None:
    """Warnings are told of sections without a mistake, in the same run; of the others there may be more."""
    text = f"listen: {{prot: 1, host: 0.0.0.0}}\naccess: {{open: true}}\ndevices: {{g: {{memory: 22}}}}\n{A}"

    code, lines = check(text)

    assert (code, lines) == (
        78,
        [
            "c.yaml:2:10: warning: access.open: anyone who reaches this host may use every model",
            "c.yaml:3:11: warning: devices.g: no backend is on this device",
            "c.yaml:3:15: warning: devices.g.memory: these are bytes; with a unit it is 22GiB",
            "c.yaml:1:10: listen.prot: no such key; did you mean port?",
        ],
    )


def test_no_warning_rests_on_a_mistake(check: Check) -> None:
    """Nobody is warned of what may only be the consequence of a mistake."""
    device = "devices: {g: {}}\n"
    _, misspelled = check(f"{device}backends: {{a: {{kind: lmstudoi, url: 'http://h', device: g}}}}\n")
    _, broken = check(f"{device}backends:\n\ta: {{kind: lmstudio, url: 'http://h', device: g}}\n")

    assert [line for line in (*misspelled, *broken) if "warning" in line] == []


P = "devices: {g: {}}\nbackends: {box: {kind: process, device: g}}\n"
D = "devices: {g: {}}\n"
PARALLEL = "models: {m: {backend: box, cmd: 'x {parallel}'}}"
S = "backends: {s: {kind: lmstudio, url: 'http://h', device: g}}\n"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (A + "listen: {host: 0.0.0.0}\naccess: {keys: [{name: a, sha256: x}]}", "access.keys[0].sha256"),
        ("backends: {s: {kind: lmstudio, url: 'http://h'}}\nmodels: {m: {pin: true}}", "backends.s.device"),
        (S + "devices: [g]\nmodels: {m: {pin: true}}", "devices"),
        (
            S + "devices: {g: {max_models: x}}\nmodels: {m: {pin: true}, n: {pin: true}}",
            "devices.g.max_models",
        ),
        (A + "models: {m: {backend: 5, ttl_s: 9}}", "models.m.backend"),
        ("backends: {a: {kind: opnai}}\nmodels: {m: {backend: a, pin: true}}", "backends.a.kind"),
        ("backends: {a: {kind: openai, url: x}}\nmodels: {m: {backend: a}}", "backends.a.url"),
        ("backends: [a]\nmodels: {m: {backend: a}}", "backends"),
        (P + "models: {m: {backend: box, cmd: [x]}, n: {of: m}}", "models.m.cmd"),
        (S.replace("g}", "g, lms: /no}") + D + "models: {m: {load: {gpu: max}}}", "backends.s.lms"),
        (P.replace("g}}", "g, parallel: x}}") + PARALLEL, "backends.box.parallel"),
    ],
)
def test_no_mistake_is_made_of_another(check: Check, text: str, path: str) -> None:
    """What may only be the consequence of a mistake is not told as one."""
    _, lines = check(text)

    assert [line.split(": ")[1] for line in lines] == [path]


def test_several_mistakes_of_one_entry(check: Check) -> None:
    """Each mistake of a backend and of its model is told, and those of other models beside them."""
    backends = "backends: {s: {kind: lmstudio, url: x, parallel: 0}}\n"
    models = (
        "models: {m: {backend: s, pin: 5, load: {gpu: 9}}, n: {aliases: [x]}, o: {backend: t}, p: {pni: 1}}"
    )

    _, lines = check(backends + models)

    assert [line.split(": ")[1] for line in lines] == [
        "backends.s.device",
        "backends.s.url",
        "backends.s.parallel",
        "models.m.pin",
        "models.m.load.gpu",
        "models.o.backend",
        "models.p.pni",
    ]
