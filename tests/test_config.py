"""The configuration: strict, told of all at once with paths, and never with a secret."""

import itertools
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dmap.backends.gguf.section import GGUFSection
from dmap.backends.openai.section import OpenAISection
from dmap.config import Config, ConfigProblem, load, parse, warnings_of
from dmap.sections import Load, ModelSection

A = "backends: {a: {kind: openai, url: 'http://h'}}\n"
HASH = "0123456789abcdef" * 4
OTHER = "f" * 64
NOW = datetime(2026, 6, 1, tzinfo=UTC)
OPENAI = "{kind: openai, url: 'http://h'}"
STUDIO = "{kind: lmstudio, url: 'http://h', device: g}"
ENGINE = "{kind: gguf, path: /, device: g}"


def problems_of(text: str, **environ: str) -> list[str]:
    """Return what is wrong with *text*."""
    with pytest.raises(ConfigProblem) as refused:
        parse(text, environ)
    return refused.value.problems


def at(path: str, value: str) -> Any:
    """Set *path*, of two names, to the YAML *value* and return what it became."""
    section, name = path.split(".")
    return getattr(getattr(parse(f"{A}{section}: {{{name}: {value}}}", {}), section), name)


# What is taken


def test_one_backend_is_enough():
    """Every key but a backend has a default."""
    config = parse(A, {})

    assert config.backends == {"a": OpenAISection(kind="openai", url="http://h")}
    assert (config.listen.host, config.listen.port) == ("127.0.0.1", 8000)
    assert config.allow_models == ("*",)


def test_a_section_whose_lines_are_commented_out_is_empty():
    """A section without a line is the same as none."""
    assert parse(A + "server:\naccess:\ndevices:\nmodels:\n", {}) == parse(A, {})


def test_nothing_can_be_changed():
    """A configuration is frozen."""
    with pytest.raises(ValueError, match="frozen"):
        parse(A, {}).listen.port = 1


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("1", 1),
        ("512", 512),
        ("512B", 512),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("64MiB", 67_108_864),
        ("64 mib", 67_108_864),
        ("22GiB", 23_622_320_128),
        ("1.5GB", 1_500_000_000),
        ("'123'", 123),
    ],
)
def test_sizes(written, size):
    """A size is a number of bytes, or has a unit by a thousand or by 1024."""
    assert at("server.max_body", written) == size


@pytest.mark.parametrize(
    "written",
    [
        "0", "0B", "-1", "true", "12.5", "1e6", "64M", "64Mi", "MiB", "64MiB2", "-5MiB", "nan",
        "٣KB", "9" * 400 + "GiB", "1." + "9" * 400 + "B", "9" * 5000, "[1]", "null",
    ],
)  # fmt: skip
def test_what_is_no_size(written):
    """A size of nothing, less, a fraction or in unknown units is refused."""
    assert len(problems_of(f"{A}server: {{max_body: {written}}}")) == 1


@pytest.mark.parametrize(
    ("path", "written", "value"),
    [
        ("listen.port", "0", 0),
        ("listen.port", "'8000'", 8000),
        ("server.body_s", "5", 5.0),
        ("server.body_s", "0.5", 0.5),
        ("defaults.stop", "END", ("END",)),
        ("defaults.stop", "[A, B]", ("A", "B")),
        ("defaults.temperature", "2", 2),
        ("defaults.min_p", "0", 0),
        ("defaults.presence_penalty", "-2", -2),
        ("defaults.max_tokens", "1", 1),
    ],
)
def test_values(path, written, value):
    """A number may come as text, for so does the environment; one stop may stand alone."""
    assert at(path, written) == value


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("listen.port", "true"),
        ("listen.port", "8000.5"),
        ("listen.port", "65536"),
        ("listen.port", "-1"),
        ("listen.host", "5"),
        ("server.body_s", "yes"),
        ("server.body_s", ".inf"),
        ("server.body_s", "nan"),
        ("server.body_s", "5s"),
        ("server.body_s", "0"),
        ("access.open", "'maybe'"),
        ("access.keys", "webui"),
        ("access.keys", "[webui]"),
        ("access.allow", "[10.0.0.1/8]"),
        ("access.allow", "[10]"),
        ("access.allow", "[lan]"),
        ("access.allow", "['::ffff:192.168.1.20']"),
        ("access.allow", "['::ffff:10.0.0.0/104']"),
        ("access.trusted_proxies", "[nginx]"),
        ("defaults.temperature", "2.1"),
        ("defaults.top_p", "-0.1"),
        ("defaults.max_tokens", "0"),
        ("defaults.seed", "1.5"),
    ],
)
def test_values_that_are_not(path, written):
    """A value of another type or out of its range is refused, never bent to fit."""
    (problem,) = problems_of(f"{A}{path.replace('.', ': {')}: {written}}}")

    assert problem.startswith(path)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://h",
        "h:1234",
        "http://",
        "http://h:99999",
        "http://h:x",
        "http://h:0",
        "http://[::1",
        "http://user:sk-secret@h",
        "http://h?x",
        "http://h#x",
        "http://h h",
        "5",
    ],
)
def test_what_is_no_url(url):
    """A backend's URL has a scheme of the web, a host, perhaps a port and a path, and nothing else."""
    (problem,) = problems_of(f"backends: {{a: {{kind: openai, url: '{url}'}}}}")

    assert problem.startswith(("backends.a.url: not a URL; ", "backends.a.url: not the URL of a server; "))


def test_urls_end_without_a_slash():
    """A closing slash does not matter."""
    assert (
        parse("backends: {a: {kind: openai, url: 'https://h:1/v1/'}}", {}).backends["a"].url
        == "https://h:1/v1"
    )


# What is told


def test_problems_between_values_are_told_beside_those_of_single_ones():
    """A value that is wrong hides nothing else: what does not fit together is told in the same go."""
    text = """
listen: {host: 0.0.0.0, port: 99999}
devices: {g: {max_models: 1, memory: 8GiB}}
backends: {b: {kind: gguf, path: ., device: nope}, c: {kind: lmstudio, url: 'http://h', device: g}}
models:
  x: {backend: c, pin: true, memory: 9GiB, aliases: [z]}
  y: {backend: c, pin: true, aliases: [z]}
  w: {backend: lost}
"""
    with pytest.raises(ConfigProblem) as found:
        parse(text, {})

    assert {problem.partition(":")[0] for problem in found.value.problems} == {
        "listen.port",
        "listen.host",
        "backends.b.device",
        "models.w.backend",
        "models.y.aliases",
        "models.x.memory",
        "devices.g.max_models",
    }


def test_all_problems_are_told_at_once():
    """Each problem has the path of its key in the file."""
    text = f"""
listen: {{port: 99999, hots: x}}
backends:
  a: {{kind: openai, url: 'ftp://h', parallel: 0}}
  openai: {{kind: openai}}
  b: {{kind: ollama}}
  c: {{url: 'http://h'}}
access: {{keys: [{{name: ok, sha256: short}}, {{sha256: {HASH}}}]}}
models: {{m: {{load: {{context: 5}}, defaults: {{stop: [a, 5]}}}}}}
server: {{idle_s: '${{IDLE}}', max_body: huge}}
"""

    assert sorted(problems_of(text)) == [
        "access.keys[0].sha256: not a SHA-256; write 64 lower-case hex digits, never the key itself",
        "access.keys[1].name: missing",
        "backends.a.parallel: must be 1 or more",
        "backends.a.url: not a URL; write it like http://127.0.0.1:1234, http:// or https:// included",
        "backends.b.kind: no such kind; there are: gguf, lmstudio, node, openai, process",
        "backends.c.kind: missing; there are: gguf, lmstudio, node, openai, process",
        "backends.openai.url: missing",
        "listen.hots: no such key; did you mean host?",
        "listen.port: must be 65535 or less",
        "models.m.defaults.stop[1]: must be a text; put it in quotes",
        "models.m.load.context: no such key; did you mean context_length?",
        "server.idle_s: the environment has no variable IDLE",
        "server.max_body: not a size; write it like 64MiB or 22GiB",
    ]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("devices: {g: {adopt: both}}", "devices.g.adopt"),
        ("devices: {g: {backend_gone_s: 0}}", "devices.g.backend_gone_s"),
        ("models: {m: {ttl_s: 0}}", "models.m.ttl_s"),
        ("debug: {ring: 0}", "debug.ring"),
        ("listen: {tls: {cert: x}}", "listen.tls.key"),
        ("access: {cors: ['https://app.example/path']}", "access.cors[0]"),
        (f"access: {{keys: [{{name: a, sha256: {HASH}, priority: 11}}]}}", "access.keys[0].priority"),
        (f"access: {{keys: [{{name: a, sha256: {HASH}, expires: soon}}]}}", "access.keys[0].expires"),
        (f"access: {{keys: [{{name: a, sha256: {HASH}, rate_per_min: 0}}]}}", "access.keys[0].rate_per_min"),
    ],
)
def test_what_a_key_cannot_be_is_told_with_its_path(text, path):
    """A value out of its bounds is refused, never clamped, and told with its path in the file."""
    assert [problem.partition(": ")[0] for problem in problems_of(A + text)] == [path]


def test_parameters_in_camel_case():
    """The parameters of inference and of a load may be spelled as LM Studio's SDKs spell them."""
    config = parse(
        "devices: {g: {}}\n"
        "backends: {a: {kind: lmstudio, url: 'http://h', device: g}}\n"
        "defaults: {maxTokens: 5, topP: 0.5, stopStrings: [x], repeatPenalty: 1.1, stream: true}\n"
        "models: {m: {load: {contextLength: 4096, evalBatchSize: 64, flashAttention: true}}}",
        {},
    )

    assert config.defaults.given() == {
        "max_tokens": 5,
        "top_p": 0.5,
        "stop": ("x",),
        "repeat_penalty": 1.1,
        "stream": True,
    }
    assert config.models["m"].load.given() == {
        "context_length": 4096,
        "eval_batch_size": 64,
        "flash_attention": True,
    }


@pytest.mark.parametrize(
    ("backend", "option", "why"),
    [
        (OPENAI, "flash_attention: true", "dmap cannot load models on this server"),
        (STUDIO, "gpu_layers: 2", "LM Studio cannot be told this"),
        (STUDIO, "gpu: max", "LM Studio's REST API has no such option; its lms command has"),
        (ENGINE, "num_experts: 2", "the engine cannot be told this"),
        (ENGINE, "gpu: 0.5", "the engine takes off or max only"),
        (f"{ENGINE}, b: {STUDIO}", "ttl_s: 2", "the engine cannot be told this; LM Studio's REST API"),
    ],
)
def test_a_load_that_can_never_work(backend, option, why):
    """An option that no backend of the model can be told is a problem: each load of it would fail."""
    [problem] = problems_of(
        f"devices: {{g: {{}}}}\nbackends: {{a: {backend}}}\nmodels: {{m: {{load: {{{option}}}}}}}"
    )

    assert problem.startswith(f"models.m.load.{option.partition(':')[0]}: {why}")


@pytest.mark.parametrize(
    ("backend", "options"),
    [
        (OPENAI, "context_length: 4096"),
        (ENGINE, "context_length: 4096, gpu: off, cpu_threads: 2, rope_frequency_base: 1"),
        (f"{ENGINE}, b: {STUDIO}", "cpu_threads: 2, num_experts: 2"),
    ],
)
def test_a_load_that_may_work(backend, options):
    """An option that one of the model's possible backends can be told is none."""
    parse(f"devices: {{g: {{}}}}\nbackends: {{a: {backend}}}\nmodels: {{m: {{load: {{{options}}}}}}}", {})


@pytest.mark.parametrize("second", ["maxTokens", "max_completion_tokens", "maxOutputTokens"])
def test_a_parameter_in_two_spellings(second):
    """One parameter in two spellings is an error: nobody could tell which one is meant."""
    assert problems_of(f"{A}defaults: {{max_tokens: 5, {second}: 6}}") == [
        f"defaults.{second}: no such key, or a second spelling of one"
    ]


def test_no_spelling_of_a_parameter():
    """A key that means no parameter in any spelling is only unknown."""
    assert problems_of(A + "defaults: {max_tokens: 5, MaxTokens: 6}") == [
        "defaults.MaxTokens: no such key; did you mean max_tokens?"
    ]


@pytest.mark.parametrize("gpu", ["1.5", "-0.1", "true", "all", "[0.5]", ".nan", "9" * 99, "1.e+400"])
def test_a_share_of_the_layers_is_one(gpu):
    """What the GPU is to hold is off, max, or a share from 0 to 1; whatever else stands there is refused."""
    assert problems_of(f"{A}models: {{m: {{load: {{gpu: {gpu}}}}}}}") == [
        "models.m.load.gpu: write off, max, or a share from 0 to 1 (or ratio and layers)"
    ]


def test_a_number_that_no_float_holds_is_no_share():
    """A number of the admin API may have thousands of digits."""
    with pytest.raises(ValueError, match="a share from 0 to 1"):
        Load.model_validate_json('{"gpu": ' + "9" * 400 + "}")


@pytest.mark.parametrize(("text", "hour"), [("2027-01-31", 0), ("2027-01-31T12:00:00+02:00", 10)])
def test_when_a_key_expires(text, hour):
    """A key expires at a point in time, or at the beginning of a day in UTC."""
    config = parse(A + f"access: {{keys: [{{name: a, sha256: {HASH}, expires: {text}}}]}}", {})

    expires = config.access.keys[0].expires
    assert expires is not None and expires.astimezone(UTC) == datetime(2027, 1, 31, hour, tzinfo=UTC)


def test_a_backend_is_needed():
    """A configuration without a backend is told so."""
    assert problems_of("") == [
        "backends: missing, or all of its lines are comments; name at least one server"
    ]
    assert problems_of("backends: {}") != []


@pytest.mark.parametrize("text", ["- a", "5", "text"])
def test_a_file_that_is_no_mapping(text):
    """A file that is something else is told in words of the file, not of a library."""
    (problem,) = problems_of(text)

    assert problem.startswith("the file: must be a mapping (key: value)")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("devices: {g: }", "devices.g: must be a mapping (key: value), and nothing stands under it"),
        ("models: {m: x}", "models.m: must be a mapping (key: value)"),
        ("models: []", "models: must be a mapping (key: value), not a list; write NAME: instead of - NAME"),
    ],
)
def test_a_section_that_is_no_mapping(text, problem):
    """A section that is something else is told so."""
    assert problems_of(A + text) == [problem]


@pytest.mark.parametrize("name", ["a b", "-a", "", "a/b", "a" * 65, "é"])
def test_names_are_plain(name):
    """Names of backends and devices are short and plain, for they stand in logs and in model names."""
    assert len(problems_of(f"backends: {{'{name}': {{kind: openai, url: 'http://h'}}}}")) == 1


SHARED = (
    "devices: {{g: {{memory: 8GiB}}}}\n"
    "backends: {{b: {{kind: gguf, path: ., device: g}}, "
    "v: {{kind: openai, url: 'http://h', device: g, {memory}}}}}\n"
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "devices: {g: {}}\nbackends: {b: {kind: gguf, path: ., device: x}}",
            "backends.b.device: there is no device 'x' under devices",
        ),
        (A + "models: {m: {backend: x}}", "models.m.backend: there is no backend 'x' under backends"),
        (A + "models: {m: {aliases: [n]}, n: {}}", "models.m.aliases: 'n' already means 'n'"),
        (A + "models: {m: {aliases: [x]}, n: {aliases: [x]}}", "models.n.aliases: 'x' already means 'm'"),
        (
            A + f"access: {{keys: [{{name: k, sha256: {HASH}}}, {{name: k, sha256: {OTHER}}}]}}",
            "access.keys[1].name: that of access.keys[0] too",
        ),
        (
            A + f"access: {{keys: [{{name: k, sha256: {HASH}}}, {{name: l, sha256: {HASH}}}]}}",
            "access.keys[1].sha256: that of access.keys[0] too",
        ),
        (
            "backends: {b: {kind: openai, url: 'http://h', device: x}}",
            "backends.b.device: there is no device 'x' under devices",
        ),
        (
            "backends: {b: {kind: openai, url: 'http://h', memory: 1GiB}}",
            "backends.b.memory: has no effect without device",
        ),
        (
            SHARED.format(memory="") + "models: {}",
            "backends.v.memory: missing; say what this server takes of device 'g'",
        ),
        (SHARED.format(memory="memory: 8GiB"), "devices.g.memory: nothing of it is left beside 'v'"),
        (
            SHARED.format(memory="memory: 5GiB") + "models: {m: {backend: b, memory: 4GiB}}",
            "models.m.memory: more than the memory of device 'g' beside 'v'",
        ),
        (
            SHARED.format(memory="memory: 5GiB") + "models: {m: {backend: v, memory: 4GiB}}",
            "models.m.memory: what counts is the memory of its backend, whose server dmap cannot unload",
        ),
    ],
)
def test_what_does_not_fit_together(text, problem):
    """Keys that contradict each other are told."""
    assert problems_of(text) == [problem]


# YAML


@pytest.mark.parametrize(
    "text",
    [
        "{b: 1, b: 2}",
        f"{A}{A}",
        "a: [",
        "\t",
        "--- a\n--- b",
        "a: \x00",
        "a: *nothing",
        "a: " + "9" * 5000,
        "[" * 5000,
        "a: &a [*a]",
        # what PyYAML's constructors let through as other errors
        "!!python/object/apply:os.system [id]",
        "!custom x",
        "2024-13-45",
        "0x_",
        "!!bool x",
        "!!timestamp x",
        "!!map [a]",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_what_is_no_yaml(text):
    """Whatever cannot be read, a key given twice included, is one problem of one line in our own words."""
    problem = problems_of(text)[0]

    assert re.match(r"line \d+, column \d+: |b: given twice|backends: given twice|the file: ", problem)
    assert not re.search("found|constructor|expected|\n", problem)


def test_a_problem_of_yaml_has_its_place():
    """What YAML cannot read is told with its line and column."""
    assert problems_of("a: 1\nb: {c: @x}") == [
        "line 2, column 8: a text that begins with @, % or ` takes quotes: YAML has a meaning of its own "
        "for it"
    ]


def test_anchors_and_merges():
    """YAML's anchors and merges work, and a key of one's own goes before a merged one."""
    text = """
backends:
  a: &a {kind: openai, url: 'http://h', queue: 5}
  b: {<<: *a, queue: 6}
  c: *a
"""
    config = parse(text, {})

    assert [config.backends[name].queue for name in "abc"] == [5, 6, 5]


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 {k: v}\n"
        + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)),
        "a0: &a0 [v]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
        "a: &a {b: *a}",
        "a: &a {<<: *a}",
        "a: [" + "1, " * 200_000 + "]",
    ],
    ids=["merges", "lists", "itself", "merged with itself", "long"],
)
def test_what_unfolds_to_too_much_is_refused_unread(text):
    """Values are counted while the text is read, each alias as all that it stands for: nothing is built."""
    (problem,) = problems_of(text)

    assert problem.endswith(": with what its aliases stand for, the file has too many values")


def test_a_mapping_of_many_keys_is_read_at_once():
    """A mapping of thousands of keys takes no longer for their number: each is looked at once."""
    entries = "".join(f"  m{n}: {{}}\n" for n in range(20_000))

    assert len(parse(f"{A}models:\n{entries}", {}).models) == 20_000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# " + "x" * 2**20, "the file is longer than 1048576 characters"),
        ("a: 1" + ":59" * 100_000, "line 1, column 4: a number of 300001 characters"),
        ("a: 0b" + "1" * 1_000_000, "line 1, column 4: a number of 1000002 characters"),
        ("a: 1." + "1" * 1_000_000, "line 1, column 4: a number of 1000002 characters"),
        ("a: " + "${LONG}" * 20_000, "a: with its variables the file is too long"),
        ("a: [" + "'${LONG}'," * 20_000 + "]", "a[10485]: with its variables the file is too long"),
    ],
    ids=["long", "base 60", "binary", "float", "variables", "many variables"],
)
def test_what_would_take_long_to_read_is_refused(text, problem):
    """Nothing in a file costs more than its length; the bound of it is the first thing that is looked at."""
    with pytest.raises(ConfigProblem) as refused:
        parse(text, {"LONG": "x" * 100})

    assert refused.value.problems == [problem]


def test_a_variable_that_is_missing_is_told_once():
    """However often a text names a variable that there is not, that is one problem."""
    assert (
        problems_of("state: '" + "${NONE}" * 1000 + "'").count("state: the environment has no variable NONE")
        == 1
    )


def test_a_bomb_of_anchors_is_refused():
    """Anchors that unfold to more than a file could hold are refused before they are unfolded."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]

    (problem,) = problems_of("\n".join(lines))

    assert problem.endswith(": with what its aliases stand for, the file has too many values")


# Environment and paths


def test_the_environment_fills_in():
    """`${NAME}` stands for a variable anywhere in a text, as data: what is in it is not read again."""
    backends = "backends: {a: {kind: openai, url: 'http://${HOST}:${PORT}', api_key: '${KEY}'}}"

    config = parse(
        f"{backends}\nlisten: {{port: '${{PORT}}'}}", {"HOST": "h", "PORT": "81", "KEY": "{x:${HOST}"}
    )

    assert (config.backends["a"].url, config.listen.port) == ("http://h:81", 81)
    assert config.backends["a"].api_key == "{x:${HOST}"


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("${GONE}", "allow_models[0]: the environment has no variable GONE"),
        ("a${GONE}b", "allow_models[0]: the environment has no variable GONE"),
        ("${LM-TOKEN}", "allow_models[0]: write a variable of the environment as ${NAME}"),
        ("${", "allow_models[0]: write a variable of the environment as ${NAME}"),
        ("${}", "allow_models[0]: write a variable of the environment as ${NAME}"),
    ],
)
def test_a_variable_that_is_not_there(written, problem):
    """A variable that is missing or misspelled is told with its path."""
    assert problems_of(f"{A}allow_models: ['{written}']") == [problem]


@pytest.mark.parametrize("name", ["b", "my.box"])
def test_a_path_starts_from_the_files_folder(tmp_path, name):
    """A relative path is taken from the folder of the file, wherever dmap is started."""
    (tmp_path / "models").mkdir()
    file = tmp_path / "config.yaml"
    file.write_text(f"devices: {{g: {{}}}}\nbackends: {{{name}: {{kind: gguf, path: models, device: g}}}}")

    config = load(file, {})

    assert config.backends[name] == GGUFSection(kind="gguf", path=tmp_path / "models", device="g")


@pytest.mark.parametrize(
    "path", ["/nowhere/at/all", "nowhere", "~nobody-of-this-name/x", "/etc/passwd", "'a\\0b'"]
)
def test_a_folder_that_is_not_there(path):
    """A folder of models that is none is told."""
    text = f"devices: {{g: {{}}}}\nbackends: {{b: {{kind: gguf, path: {path}, device: g}}}}"

    assert problems_of(text)[0].startswith("backends.b.path: ")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(tmp_path, content):
    """A file that is missing or not UTF-8 is told with its name."""
    file = tmp_path / "config.yaml"
    (file if content else tmp_path / "other").write_bytes(content or b"")

    with pytest.raises(ConfigProblem, match=r"config\.yaml: cannot be read"):
        load(file, {})


# Secrets

SECRET = "sk-SECRET"


@pytest.mark.parametrize(
    "text",
    [
        f"access: {{keys: [{{name: a, sha256: {SECRET}}}]}}",
        f"access: {{keys: [{{name: '{SECRET} x', sha256: {HASH}}}]}}",
        f"access: {{keys: [{SECRET}]}}",
        f"access: {{keys: {SECRET}}}",
        f"access: {{open: {SECRET}}}",
        f"backends: {{a: {{kind: openai, url: 'http://h', api_key: [{SECRET}]}}}}",
        f"backends: {{a: {{kind: openai, url: 'http://h', api_key: 'Bearer {SECRET}'}}}}",
        f"backends: {{a: {{kind: openai, url: 'http://h', api_key: \"{SECRET}\\r\\nX: y\"}}}}",
        f"backends: {{a: {{kind: openai, url: 'http://{SECRET}@h'}}}}",
        f"backends: {{a: {{kind: openai, url: '{SECRET}'}}}}",
        f"backends:\n  a:\n    api_key: '{SECRET}\n",
        f"backends:\n  a:\n    api_key: {SECRET}: x\n",
        f"backends:\n  a:\n    api_key: *{SECRET}\n",
        f"backends:\n  a:\n    api_key: !{SECRET}\n",
        f"backends:\n  a:\n    api_key: @{SECRET}\n",
        f"backends:\n  a: {{api_key: {SECRET}, api_key: {SECRET}}}\n",
        f"server: {{body_s: {SECRET}, max_body: {SECRET}}}",
        f"listen: {{port: {SECRET}}}",
        f"access: {{allow: [{SECRET}]}}",
    ],
)
def test_no_value_is_told(text):
    """What is wrong is told without the value, which may be a secret in the wrong place."""
    problems = problems_of(text)

    assert problems != []
    assert SECRET not in "\n".join(problems)


def test_a_secret_of_the_environment_is_not_told():
    """What came from the environment is not told either."""
    text = A + "access: {keys: [{name: a, sha256: '${KEY}'}]}\nlisten: {port: '${KEY}'}"

    assert SECRET not in "\n".join(problems_of(text, KEY=SECRET))


def test_no_representation_has_a_secret():
    """A configuration that is printed has no key in it."""
    config = parse(f"backends: {{a: {{kind: openai, url: 'http://h', api_key: {SECRET}}}}}", {})

    assert config.backends["a"].api_key == SECRET
    assert SECRET not in f"{config!r} {config} {config.backends!r}"


def test_the_hash_of_nothing_is_no_key():
    """The SHA-256 of an empty text, as an unset variable gives it, is refused."""
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    assert problems_of(f"{A}access: {{keys: [{{name: a, sha256: {nothing}}}]}}") == [
        "access.keys[0].sha256: the SHA-256 of an empty key"
    ]


# Who can reach it


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.5.5", "'::1'", "localhost"])
def test_loopback_needs_no_protection(host):
    """On loopback dmap starts without keys."""
    assert at("listen.host", host) == host.strip("'")


@pytest.mark.parametrize("host", ["0.0.0.0", "'::'", "''", "192.168.1.5", "box.lan", "'::ffff:0.0.0.0'"])
@pytest.mark.parametrize(
    "rest", ["", "access: {trusted_proxies: [10.0.0.0/8]}", "access: {keys: [], allow: []}"]
)
def test_others_need_protection(host, rest):
    """Beyond loopback dmap does not start unprotected."""
    (problem,) = problems_of(f"{A}listen: {{host: {host}}}\n{rest}")

    assert problem.startswith("listen.host: ")


@pytest.mark.parametrize(
    "rest", [f"{{keys: [{{name: a, sha256: {HASH}}}]}}", "{allow: [10.0.0.0/8]}", "{open: true}"]
)
def test_protection_is_keys_addresses_or_a_word(rest):
    """Keys, a list of addresses, or the word that it is meant so let dmap start beyond loopback."""
    assert parse(f"{A}listen: {{host: 0.0.0.0}}\naccess: {rest}", {}).listen.host == "0.0.0.0"


# Warnings


def test_an_open_door_is_warned_of():
    """That anyone may come in is told at the start."""
    config = parse(A + "listen: {host: 0.0.0.0}\naccess: {open: true}", {})

    assert warnings_of(config, NOW) == ["access.open: anyone who reaches this host may use every model"]


@pytest.mark.parametrize(
    ("rest", "warning"),
    [
        ("devices: {g: {}}", "devices.g: no backend is on this device"),
        (
            f"access: {{keys: [{{name: old, sha256: {HASH}, expires: 2026-06-01}}]}}",
            "access.keys[0].expires: 'old' expired on 2026-06-01",
        ),
    ],
)
def test_what_has_no_effect_is_warned_of(rest, warning):
    """What somebody wrote in vain is told at the start."""
    assert warnings_of(parse(A + rest, {}), NOW) == [warning]


def test_memory_of_a_server_that_counts_for_nothing_is_warned_of():
    """Where a device goes by the number of its models, what a server holds of it is only shown."""
    config = parse(SHARED.format(memory="memory: 4GiB").replace("memory: 8GiB", ""), {})

    assert config.device("g").memory is None
    assert warnings_of(config, NOW) == [
        "backends.v.memory: is only shown, because devices.g.memory is not set"
    ]


def test_what_servers_leave_of_a_device():
    """A device as its models have it has less memory, by what the servers on it hold."""
    device = parse(SHARED.format(memory="memory: 5GiB"), {}).device("g")

    assert (device.memory, device.held) == (3 * 2**30, {"v": 5 * 2**30})


BOX = """
backends: {box: {kind: process, device: g}, other: {kind: process, device: h}, out: {kind: openai, url: "http://h"}}
models:
  chat: {backend: box, cmd: 'c {port}', aliases: [gpt-4o]}
  embed: {backend: box, cmd: 'c {port}'}
  far: {backend: other, cmd: 'c {port}'}
  outside: {backend: out}
"""


@pytest.mark.parametrize(
    ("lists", "problem"),
    [
        ("[[a]]", "devices.g.together[0]: name two models or more that fit together; one fits by itself"),
        ("[[a, b], [a, b, a]]", "devices.g.together[1]: a model is named twice"),
    ],
)
def test_lists_that_say_nothing(lists, problem):
    """A list is of several models, each named once."""
    assert problems_of(f"devices: {{g: {{together: {lists}}}}}\n{A}") == [problem]


@pytest.mark.parametrize(
    ("names", "doubt"),
    [
        ("chat, embed", None),
        ("gpt-4o, embed", None),
        ("box/chat, EMBED", None),
        ("chat, embde", "there is no model 'embde'; did you mean embed?"),
        ("chat, tts", "there is no model 'tts'"),
        ("chat, far", "'far' is on another device"),
        ("chat, outside", "'outside' is not on this device"),
    ],
)
def test_a_list_of_models_that_are_not_there(names, doubt):
    """Whoever is on a list and cannot be on the device is told, and so is a name that is a typo."""
    config = parse(f"devices: {{g: {{together: [[{names}]]}}, h: {{}}}}\n{BOX}", {})

    assert warnings_of(config, NOW) == ([f"devices.g.together[0]: {doubt}"] if doubt else [])


@pytest.mark.parametrize(
    ("device", "doubt"),
    [
        ("preload: [chat]", None),
        ("preload: [gpt-4o, embed], together: [[chat, embed]], return_s: 60", None),
        ("preload: [chat, embed]", "preload: 'embed' does not fit beside those before it, so it is left out"),
        ("preload: [cat]", "preload: there is no model 'cat'; did you mean chat?"),
        ("preload: [tts]", "preload: there is no model 'tts'"),
        ("preload: [far]", "preload: 'far' is on another device"),
        ("return_s: 60", "return_s: has no effect without preload"),
        ("preload: [brief]", None),
        (
            "preload: [brief], return_s: 60",
            "preload: 'brief' goes after its ttl_s, and is back only when the device was used again",
        ),
    ],
)
def test_models_that_cannot_be_there_from_the_start(device, doubt):
    """Told as far as the file knows: names, what fits together, and what has no effect."""
    brief = "  brief: {backend: box, cmd: 'c {port}', ttl_s: 60}"
    config = parse(f"devices: {{g: {{{device}}}, h: {{}}}}\n{BOX}{brief}", {})

    assert warnings_of(config, NOW) == ([f"devices.g.{doubt}"] if doubt else [])


@pytest.mark.parametrize(
    ("sizes", "doubts"),
    [
        ((6, 4), []),
        ((6, 5), ["'b' does not fit beside those before it, so it is left out"]),
    ],
)
def test_sizes_of_what_is_there_from_the_start(sizes, doubts):
    """They go by `memory` where the file has it."""
    text = """
    devices: {{g: {{memory: 10GiB, max_models: 2, preload: [a, b, c]}}}}
    backends: {{s: {{kind: lmstudio, url: 'http://h', device: g}}}}
    models: {{a: {{memory: {}GiB}}, b: {{memory: {}GiB}}}}
    """

    assert warnings_of(parse(text.format(*sizes), {}), NOW) == [
        f"devices.g.preload: {each}" for each in doubts
    ]


@pytest.mark.parametrize(
    ("rest", "is_told"),
    [
        ("", False),
        (", env: {PORT: '{port}'}", True),
        (", url: 'http://h:1'", True),
        (", url: 'http://h:{port}'", False),
    ],
)
def test_a_command_is_told_where_to_listen(rest, is_told):
    """By its words or its variables, unless it has a place of its own."""
    text = f"models: {{m: {{backend: box, cmd: serve{rest}}}}}"
    config = parse(f"devices: {{g: {{}}}}\nbackends: {{box: {{kind: process, device: g}}}}\n{text}", {})

    assert [each for each in warnings_of(config, NOW) if "{port}" in each] == [
        "models.m.cmd: is not told {port}, so nobody finds its server; say it, or set url"
    ] * (not is_told)


def test_an_alias_that_is_taken_is_told_once():
    """However often it stands there."""
    text = "backends: {a: {kind: openai, url: 'http://h'}}\nmodels: {x: {aliases: [n]}, y: {aliases: [n, n]}}"

    assert problems_of(text) == ["models.y.aliases: 'n' already means 'x'"]


def test_a_name_that_only_a_server_knows():
    """It may be on a list, for nobody but the server can tell."""
    config = parse(
        f"devices: {{g: {{together: [[m, embed]]}}}}\nbackends: {{b: {STUDIO}}}\nmodels: {{m: {{}}}}", {}
    )

    assert warnings_of(config, NOW) == []


def test_a_pinned_model_in_the_way_of_a_list():
    """A list is whole: beside a pinned model that is not on it its models do not fit together."""
    tts = "  tts: {backend: box, cmd: 'c {port}', pin: true}"
    text = f"devices: {{g: {{together: [[chat, embed]]}}, h: {{}}}}\n{BOX}{tts}"

    assert warnings_of(parse(text, {}), NOW) == [
        "devices.g.together[0]: 'tts' is pinned and not on this list, which means nothing meanwhile"
    ]


def test_pinned_models_that_fit_together():
    """More may be pinned than `max_models` allows, if all are on one list."""
    pins = BOX.replace("'c {port}'", "c, pin: true")

    assert parse(f"devices: {{g: {{together: [[gpt-4o, embed]]}}, h: {{}}}}\n{pins}", {})
    assert problems_of(f"devices: {{g: {{together: [[chat, x], [embed, y]]}}, h: {{}}}}\n{pins}") == [
        "devices.g.max_models: less than the 2 models that are pinned there"
    ]


def test_a_pin_that_outlives_its_time_is_warned_of():
    """A pinned model does not go when nobody asks for it."""
    config = _crowd(1, "{}").model_copy(update={"models": {"m0": ModelSection(pin=True, ttl_s=60)}})

    assert warnings_of(config, NOW) == [
        "models.m0.ttl_s: a pinned model stays, however long nobody asks for it"
    ]


def _crowd(models: int, device: str) -> Config:
    names = ", ".join(f"m{i}: {{}}" for i in range(models))
    backend = "backends: {b: {kind: gguf, path: ., device: g}}"
    return parse(f"devices: {{g: {device}}}\n{backend}\nmodels: {{{names}}}", {}, base=Path())


@pytest.mark.parametrize(
    ("models", "device", "warned"),
    [
        (7, "{}", True),
        (6, "{}", False),
        (7, "{wait_s: 350}", False),
        (7, "{max_models: 7}", False),
        (4, "{wait_s: 60, residency: 0}", False),
    ],
)
def test_long_waits_are_warned_of(models, device, warned):
    """Models times (residency + 1) times the cost of a load may not exceed `wait_s` without a word."""
    warnings = warnings_of(_crowd(models, device), NOW, load_s=10)

    assert [warning.partition(":")[0] for warning in warnings] == list(itertools.repeat("devices.g", warned))


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("", (64 * 2**20, 7)),
        ("activity:\n", (64 * 2**20, 7)),
        ("activity: true\n", (64 * 2**20, 7)),
        ("activity: {size: 1MiB, days: 30}\n", (2**20, 30)),
        ("activity: false\n", None),
    ],
)
def test_the_activity_log(text: str, bounds: tuple[int, int] | None) -> None:
    """There is an activity log unless the file says `false`."""
    activity = parse(f"backends: {{a: {{kind: openai, url: 'http://127.0.0.1:1'}}}}\n{text}", {}).activity

    assert (activity and (activity.size, activity.days)) == bounds


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{size: 1023KiB}", "activity.size: must be 1048576 or more"),
        ("{days: 0}", "activity.days: must be 1 or more"),
        ("{days: 0.5}", "activity.days: must be a whole number"),
        ("{file: a.log}", "activity.file: no such key"),
        ("7", "activity: must be a mapping (key: value)"),
    ],
)
def test_what_no_activity_log_is(value: str, problem: str) -> None:
    """What cannot be kept is refused."""
    with pytest.raises(ConfigProblem) as told:
        parse(f"backends: {{a: {{kind: openai, url: 'http://127.0.0.1:1'}}}}\nactivity: {value}", {})

    assert told.value.problems == [problem]
