"""Moving over: what llama-swap's configuration becomes, and that its commands stay the same words."""

import hashlib
import json
import os
import subprocess
import sys
import time

import pytest

from dmap.backends.process.command import Command
from dmap.config import Config, ConfigProblem, parse
from dmap.moving import imported, problems_of
from dmap.moving.sets import MOST, of_groups, of_matrix
from tests.llama_swap_files import ENVIRONMENT, FILES

ELSEWHERE = {"OPEN_ROUTER_API_KEY": "sk-or-secret"}
"""What the imported file asks of the environment, beside what the source did."""


def moved(text: str) -> tuple[str, Config]:
    """Return what becomes of *text*, and what dmap reads in that."""
    made = imported(text, ENVIRONMENT, "config.yaml")
    return made, parse(made, {**ENVIRONMENT, **ELSEWHERE})


def section_of(model: str, rest: str = "") -> dict[str, object]:
    """Return what dmap's file says of the model `m`, which has the fields *model* in flow style."""
    _, config = moved(f"{rest}\nmodels: {{m: {{cmd: 'serve ${{PORT}}', {model}}}}}")
    return config.models["m"].model_dump(mode="json", exclude_unset=True, exclude={"backend", "cmd"})


@pytest.mark.parametrize("name", FILES)
def test_the_same_words(name):
    """Each model of a file is one of dmap's, and its command is the same words."""
    _, config = moved(FILES[name].text)

    words = {
        model: Command.of(config.models[model], {"port": "9500", "model": model}).run
        for model in FILES[name].words
    }

    assert words == FILES[name].words


def test_variables_that_only_the_service_has():
    """What they hold is not judged, wherever they stand; what is wrong beside them is told."""
    text = """
apiKeys: ["${env.A}", "${env.B}"]
models:
  m: {cmd: "x ${PORT}", proxy: "${env.URL}", env: ["X=${env.C}"]}
  n: {cmd: "x ${PORT}", proxy: "http://h:${env.D}"}
peers: {p: {proxy: h, models: [o]}}
"""

    assert problems_of(imported(text, {}, "config.yaml"), {}) == [
        "backends.p.url: not a URL; write it like http://127.0.0.1:1234, http:// or https:// included"
    ]


@pytest.mark.parametrize("name", FILES)
def test_nothing_secret_is_written(name):
    """No key of the source stands in what is made of it."""
    made, _ = moved(FILES[name].text)

    assert "sk-secret" not in made
    assert "sk-or-secret" not in made
    assert ENVIRONMENT["KEY"] not in made


def test_keys_are_known_by_their_sha256():
    """A key in the file or in the environment becomes its SHA-256; one that is elsewhere, a variable."""
    made, config = moved('apiKeys: [sk-1, "${env.KEY}", sk-1]\nmodels: {m: {cmd: "x ${PORT}"}}')
    later = imported('apiKeys: ["${env.UNSET}"]\nmodels: {m: {cmd: "x ${PORT}"}}', {}, "config.yaml")

    digests = [hashlib.sha256(key.encode()).hexdigest() for key in ("sk-1", ENVIRONMENT["KEY"])]
    assert [key.sha256 for key in config.access.keys] == digests
    assert config.listen.host == "0.0.0.0"  # noqa: S104
    assert 'sha256: "${UNSET_SHA256}"' in later
    assert problems_of(later, {}) == []


@pytest.mark.parametrize(
    ("model", "rest", "section"),
    [
        ("", "", {}),
        ("ttl: 60", "globalTTL: 300", {"ttl_s": 60.0}),
        ("ttl: -1", "globalTTL: 300", {"ttl_s": 300.0}),
        ("ttl: 0", "globalTTL: 300", {}),
        ("concurrencyLimit: 3", "", {"parallel": 3}),
        ("concurrencyLimit: 0", "", {}),
        ("useModelName: org/x", "", {"served_model_name": "org/x"}),
        ("aliases: [a, b, a, on]", "", {"aliases": ["a", "b", "on"]}),
        ("checkEndpoint: none", "", {"ready": "port"}),
        ("checkEndpoint: /health", "", {}),
        ("checkEndpoint: '/a?b=c'", "", {"ready": "/a?b=c"}),
        ("proxy: 'http://localhost:${PORT}'", "", {}),
        ("proxy: 'https://h:1/api'", "", {"url": "https://h:1/api"}),
        ("env: ['A=${MODEL_ID}:${PORT}', 'B={c}']", "", {"env": {"A": "{model}:{port}", "B": "{lbrace}c}"}}),
        ("env: ['A=${env.MODELS}/x', 'B=${env.PORT_0}']", "", {"env": {"A": "/srv/models/x", "B": "9500"}}),
        ("proxy: 'http://h:${env.PORT_0}'", "", {"url": "http://h:9500"}),
        ("proxy: '${env.SERVER}'", "", {"url": "http://h:9500"}),
        ("cmdStop: 'stop ${env.MODELS}'", "", {"stop": ["stop", "/srv/models"]}),
        ("cmdStop: 'end ${env.MODELS} ${PID}'", "", {"stop": ["sh", "-c", "end '/srv/models' \"$MAINPID\""]}),
        ("cmdStop: 'docker stop ${MODEL_ID}'", "", {"stop": ["docker", "stop", "{model}"]}),
        ("cmdStop: 'kill -15 ${PID}'", "", {}),
        ("cmdStop: 'kill ${PID}'", "", {}),
        ("cmdStop: 'kill -2 ${PID}'", "", {"stop": ["sh", "-c", 'kill -2 "$MAINPID"']}),
        ("filters: {stripParams: 'top_k, model,,seed'}", "", {"strip": ["top_k", "seed"]}),
        ("filters: {strip_params: 'top_k'}", "", {"strip": ["top_k"]}),
        ("filters: {setParams: {top_p: '${p}'}}", "macros: {p: 0.5}", {"force": {"top_p": 0.5}}),
        ("filters: {setParams: {n_predict: 9}}", "", {"force": {"max_tokens": 9}}),
        (
            "filters: {setParams: {chat_template_kwargs: {enable_thinking: false}}}",
            "",
            {"force": {"chat_template_kwargs": {"enable_thinking": False}}},
        ),
        ("unlisted: true, name: x, metadata: {a: 1}, timeouts: {connect: 1}", "", {}),
    ],
)
def test_what_a_model_has(model, rest, section):
    """What dmap has too is said in its words, and what is the default anyhow is left out."""
    assert section_of(model, rest) == section


def test_what_the_daemon_has():
    """Ports, times and the log are taken over, too."""
    _, config = moved(
        "startPort: 7000\nhealthCheckTimeout: 5\nunloadTimeout: 20\nlogLevel: warn\nlogTimeFormat: ansic\n"
        "models: {m: {cmd: 'x ${PORT}'}, n: {cmd: 'x ${PORT}', unloadTimeout: 60}}"
    )

    box = config.backends["box"].model_dump()
    assert (box["ports"], box["load_s"], box["stop_s"]) == ((7000, 7099), 15.0, 60.0)
    assert (config.log.level, config.log.timestamps) == ("warning", True)
    assert (config.listen.host, config.listen.port) == ("127.0.0.1", 8080)


def test_what_the_device_has():
    """Groups become lists of models that fit together, what is persistent is pinned, and hooks preload."""
    _, config = moved(FILES["groups"].text)

    device = config.devices["gpu0"]
    assert {frozenset(each) for each in device.together} == {frozenset(f"{model}erw") for model in "abc"}
    assert device.preload == ("w", "a")
    assert [name for name, model in config.models.items() if model.pin] == ["w"]


def test_parameters_by_name_are_variants():
    """A name with parameters of its own is a variant of the model, so it shares its resident."""
    _, config = moved(FILES["names, parameters and limits"].text)

    variants = {name: model.of for name, model in config.models.items() if model.of}
    assert variants == {"m:creative": "m", "gpt-4o": "m"}
    assert config.models["m:creative"].force.temperature == 1.5


def test_peers_are_backends():
    """A peer's models go to it by their own names, or by the peer's in front where that is taken."""
    made, config = moved(FILES["keys and peers"].text)

    homes = {name: (model.backend, model.served_model_name) for name, model in config.models.items()}
    assert homes == {
        "m": ("box", None),
        "x": ("other", None),
        "other/m": ("other", "m"),
        "org/y": ("other", None),
        "Open Router/x": ("Open-Router", "x"),
        "z": ("Open-Router", None),
    }
    assert 'api_key: "${OPEN_ROUTER_API_KEY}"' in made
    assert config.models["z"].force.temperature == 0.5
    assert "provider: {zdr: true}" in made


BOMB = (
    "macros:\n  m0: xxxxxxxxxx\n"
    + "".join(f"  m{n}: '{f'${{m{n - 1}}}' * 20}'\n" for n in range(1, 20))
    + "models: {m: {cmd: '${m19}'}}"
)

GONE = """
healthCheckTimeout logLevel logTimeFormat logToStdout logRequests metricsMaxInMemory captureBuffer store ui
performance upstream profiles sendLoadingState includeAliasesInList nonsense
"""
GONE_OF_MODELS = "name description unlisted metadata capabilities sendLoadingState timeouts compat nonsense"


@pytest.mark.parametrize(
    "key", [key for key in GONE.split() if key not in ("healthCheckTimeout", "logLevel")]
)
def test_no_key_is_dropped_in_silence(key):
    """A key that dmap has nothing for stands in the file as a comment, or its value elsewhere does."""
    made, _ = moved(f"{key}: {{seen: 7531}}\nmodels: {{m: {{cmd: 'x ${{PORT}}'}}}}")

    assert f"# {key}: " in made or "7531" in made
    assert "7531" in made


@pytest.mark.parametrize("key", GONE_OF_MODELS.split())
def test_no_key_of_a_model_is_dropped_in_silence(key):
    """The same for what a model has."""
    made, _ = moved(f"models: {{m: {{cmd: 'x ${{PORT}}', {key}: {{seen: 7531}}}}}}")

    assert any(line.strip().startswith(f"# {key}: ") and "7531" in line for line in made.splitlines())


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{}", "m: left out, for it has no cmd"),
        ("{cmd: '# nothing'}", "m: left out, for it has no cmd"),
        ("{cmd: 'x ${nobody}'}", "m: left out, for nobody has defined its macro nobody"),
        ("{cmd: 'x ${PORT} ${PID}'}", "m: left out, for nobody has defined its macro PID"),
        ("{cmd: 'x ${PORT}', proxy: 'http://${h}'}", "m: left out, for nobody has defined its macro h"),
        (f"{{cmd: '{'x' * 40_000}'}}", "m: left out, for dmap cannot run its command (longer than 32768"),
        ('{cmd: "x \\0"}', "m: left out, for dmap cannot run its command (no program can be given a NUL)"),
        ("{cmd: x}", "its command is not told ${PORT}"),
        ("{cmd: 'x ${PORT}', proxy: 'ftp://h'}", "url: ftp://h (dmap does not take this here)"),
        ("{cmd: 'x ${PORT}', checkEndpoint: '/ä'}", 'ready: "/ä" (dmap does not take this here)'),
        ("{cmd: 'x ${PORT}', env: ['A B=c', NOTHING]}", "NOTHING has no value"),
        ("{cmd: 'x ${PORT}', aliases: ['*']}", 'aliases: "*" (here it would take every name'),
        ("{cmd: 'x ${PORT}', aliases: [n]}", 'aliases: "n" (a model has this name'),
        ("{cmd: 'x ${PORT} --api-key y'}", "dmap shows no key to a command"),
        ("{cmd: 'x ${PORT}', filters: {setParams: {dry: 1}}}", "dry: 1 (dmap has no such parameter to set)"),
        ("{cmd: 'x ${PORT}', filters: {stripParams: 'a.b'}}", "a.b (only outermost fields can be)"),
    ],
)
def test_what_cannot_be_is_said(model, said):
    """What dmap cannot do as llama-swap does stands as a comment, and all else is taken over."""
    made, config = moved(f"models: {{m: {model}, n: {{cmd: 'x ${{PORT}}'}}}}")

    assert said in " ".join(made.replace("#", "").split())
    assert config.models["n"].cmd == ("x", "{port}")


@pytest.mark.parametrize("key", ["api_keys", "nested: {authToken", "models: {m: {cmd: x, password"])
def test_no_comment_tells_a_secret(key):
    """What looks like a secret is not told in a comment either, whatever key it is under."""
    made = imported(f"{key}: sk-7531{'}' * key.count('{')}", {}, "config.yaml")

    assert "sk-7531" not in made
    assert "..." in made


@pytest.mark.parametrize(
    ("groups", "lists", "pinned"),
    [
        ({}, [], []),
        ({"g": {"members": ["a", "b"]}}, [], []),
        ({"g": {"members": ["a", "b"], "swap": False}}, [("a", "b")], []),
        ({"g": {"members": ["a"], "exclusive": False}}, [("a", "b"), ("a", "c"), ("a", "d")], []),
        ({"g": {"members": ["a"], "persistent": "on"}}, [("a", "b"), ("a", "c"), ("a", "d")], ["a"]),
        (
            {"g": {"members": ["a", "b"], "exclusive": False}},
            [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")],
            [],
        ),
        (
            {"g": {"members": ["a", "b"], "swap": False, "persistent": True}, "h": {"members": ["c", "d"]}},
            [("a", "b", "c"), ("a", "b", "d")],
            ["a", "b"],
        ),
    ],
)
def test_groups_are_lists_of_models(groups, lists, pinned):
    """Which models llama-swap lets be there at once is said model by model."""
    sets = of_groups(groups, list("abcd"))

    assert (sets.lists, sets.pinned, sets.notes) == (lists, pinned, [])


@pytest.mark.parametrize(
    ("expression", "lists"),
    [
        ("a", []),
        ("a & b", [("a", "b")]),
        ("a | b", []),
        ("(a | b) & c", [("a", "c"), ("b", "c")]),
        ("x & (c|d) & +two", [("a", "c"), ("a", "c", "d"), ("a", "d")]),
    ],
)
def test_a_matrix_is_lists_of_models(expression, lists):
    """Its expressions are written out."""
    matrix = {"vars": {"x": "a"}, "sets": {"one": expression, "two": "c | d"}}

    found = of_matrix(matrix, list("abcd"))

    assert {frozenset(each) for each in found.lists} == {frozenset(each) for each in lists}
    assert found.notes == []


@pytest.mark.parametrize(
    "text", ["a &", "a b", "(a", "a & +one", "a & +none", "a & z", "", "a ^ b", "&".join(["(a|b|c|d)"] * 30)]
)
def test_a_matrix_that_cannot_be_read_is_said(text):
    """An expression that is wrong, or means too much, stands as a comment, in bounded time."""
    began = time.process_time()

    found = of_matrix({"sets": {"one": text, "two": "a & b"}}, list("abcd"))

    assert found.lists == [("a", "b")]
    assert len(found.notes) == 1
    assert time.process_time() - began < 10


def test_too_many_groups_are_said():
    """Groups that mean more lists than anybody reads are left to the memory."""
    models = [f"m{number}" for number in range(MOST + 10)]

    sets = of_groups({"g": {"members": ["m0"], "exclusive": False}}, models)

    assert sets.lists == []
    assert len(sets.notes) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[a]", "not a configuration of llama-swap: must be a mapping (key: value)"),
        ("", "not a configuration of llama-swap: must be a mapping (key: value)"),
        ("a: [", "not YAML: line 1, column 5: "),
        ("models: {m: {cmd: a}, m: {cmd: b}}", "not YAML: line 1: the key 'm' is given twice"),
        ("a: &a [1, *a]", "its anchors unfold to more than 50000 values, or it is too long"),
        ("x: 1\n" + "#" * 2**20, "the file is longer than 1048576 characters"),
        ("a: \x01", "not YAML: it has a character or a value that no text has"),
        (f"a: {'[' * 5_000}", "not YAML: it has a character or a value that no text has"),
        (
            "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 9)),
            "its anchors unfold to more than 50000 values, or it is too long",
        ),
        (
            BOMB,
            "macros: they unfold to too much",
        ),
        (f"macros: {{{', '.join(f'm{n}: 1' for n in range(501))}}}", "macros: more than 500"),
        (
            "models: {" + ", ".join(f"m{n}: {{cmd: 'x ${{PORT}}', ttl: 5}}" for n in range(10_000)) + "}",
            "its anchors unfold to more than 50000 values, or it is too long",
        ),
    ],
)
def test_what_is_no_configuration_is_refused(text, problem):
    """A file that cannot be read is refused whole, in bounded time and memory, without its values."""
    began = time.process_time()

    with pytest.raises(ConfigProblem) as caught:
        imported(text, {}, "config.yaml")

    assert caught.value.problems[0].startswith(problem)
    assert time.process_time() - began < 30


def test_many_models():
    """Two thousand models are taken over, too."""
    models = {f"m{n}": {"cmd": f"serve -m /models/{n}.gguf --port ${{PORT}}"} for n in range(2_000)}

    _, config = moved(json.dumps({"models": models}))

    assert len(config.models) == 2_000


class TestCommand:
    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = (sys.executable, "-m", "dmap", "import", *arguments)
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def test_one_command(self, tmp_path):
        """What it prints passes `check-config` as it is, where its program is there."""
        source, made = tmp_path / "llama-swap.yaml", tmp_path / "config.yaml"
        (tmp_path / "serve").touch(0o755)
        source.write_text(FILES["the least"].text)

        done = self.run("llama-swap", str(source))
        made.write_text(done.stdout)
        check = (sys.executable, "-m", "dmap", "check-config", str(made))
        path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        checked = subprocess.run(check, capture_output=True, text=True, timeout=60, env=path)

        assert (done.returncode, done.stderr) == (0, "")
        assert (checked.returncode, checked.stderr) == (0, "")

    def test_a_file_that_cannot_be_read(self, tmp_path):
        """It is told as by `check-config`, and nothing is printed."""
        (tmp_path / "a.yaml").write_text("[]")

        wrong = self.run("llama-swap", str(tmp_path / "a.yaml"))
        missing = self.run("llama-swap", str(tmp_path / "b.yaml"))

        assert (wrong.returncode, wrong.stdout) == (78, "")
        assert wrong.stderr.startswith(f"{tmp_path / 'a.yaml'}: not a configuration of llama-swap")
        assert (missing.returncode, missing.stdout) == (78, "")
        assert "cannot be read" in missing.stderr

    def test_what_dmap_does_not_take_is_told(self, tmp_path):
        """If dmap would refuse what came out, it is printed all the same, and the problem is told."""
        source = tmp_path / "llama-swap.yaml"
        source.write_text("models: {a: &m {cmd: 'x ${PORT}', aliases: [c]}, b: *m}")

        done = self.run("llama-swap", str(source))

        assert done.returncode == 78
        assert done.stderr == "dmap: not taken over whole: models.b.aliases: 'c' already means 'a'\n"
        assert "aliases: [c]" in done.stdout

    def test_another_switcher(self):
        """Only those that can be read are known."""
        assert self.run("ollama", "x").returncode == 2
