"""Commands in the configuration: how they are split, what is put into them, and what is refused."""

import json

import pytest

from dmap.backends.process.command import Command
from dmap.config import Config, ConfigProblem, parse

VALUES = {"port": "9500", "model": "m", "context_length": "4096", "parallel": "4"}


def config_of(models: str, rest: str = "", section: str = "") -> Config:
    return parse(
        f"devices: {{gpu0: {{}}}}\nbackends: {{box: {{kind: process, device: gpu0, {section}}}}}\n{rest}\n"
        f"models:\n{models}",
        {"HOME_OF": "/srv"},
    )


def problems_of(models: str, rest: str = "", section: str = "") -> list[str]:
    with pytest.raises(ConfigProblem) as caught:
        config_of(models, rest, section)
    return caught.value.problems


def command_of(cmd: str, rest: str = "", **values: str) -> tuple[str, ...]:
    config = config_of(f"  m:\n    backend: box\n    parallel: 4\n    cmd: {json.dumps(cmd)}\n", rest)
    return Command.of(config.models["m"], VALUES | values).run


@pytest.mark.parametrize(
    ("cmd", "words"),
    [
        ("serve -m 'a b.gguf' --port {port}", ("serve", "-m", "a b.gguf", "--port", "9500")),
        ("serve \"it's\" a\\ b ''", ("serve", "it's", "a b", "")),
        ("serve -c {context_length} -np={parallel} {model}", ("serve", "-c", "4096", "-np=4", "m")),
        ("# which\nserve \\\n  -x\n  # none\n  -y # z", ["serve", "-x", "-y", "#", "z"]),
        (
            "serve $(reboot) `reboot` $HOME *.gguf ~ a;b",
            ["serve", "$(reboot)", "`reboot`", "$HOME", "*.gguf", "~", "a;b"],
        ),
        ("serve '{\"a\": 1}' {{port}} {} {Port}", ("serve", '{"a": 1}', "{{port}}", "{}", "{Port}")),
        ("${HOME_OF}/serve", ("/srv/serve",)),
        (
            """serve '{"port":{port}{rbrace}' {lbrace}port} {lbrace}{port}{rbrace} {lbrace}rbrace}""",
            ("serve", '{"port":9500}', "{port}", "{9500}", "{rbrace}"),
        ),
        ("serve -r '>' \"|\"", ("serve", "-r", ">", "|")),
    ],
)
def test_it_is_split_as_a_shell_would(cmd, words):
    """Quotes, backslashes and comments are a shell's; nothing else of a shell is there."""
    assert command_of(cmd) == tuple(words)


@pytest.mark.parametrize(
    "value", ["a b", "; touch x", "$(reboot)", "../../x", "two\nlines", "-c 'x", "{port}"]
)
def test_a_value_stays_in_its_word(value):
    """Whatever a model is called, its name is a part of one argument, and its places are not filled."""
    assert command_of("serve --alias={model} {port}", model=value) == ("serve", f"--alias={value}", "9500")


def test_macros_may_hold_words():
    """A macro is put in before the command is split, and may use those above it."""
    macros = "macros: {bin: /opt/llama-server, llama: '{bin} -ngl 99 --port {port}', n: '8'}"

    words = command_of("{llama} -np {n}", macros)

    assert words == ("/opt/llama-server", "-ngl", "99", "--port", "9500", "-np", "8")


def test_all_texts_have_places():
    """The command to stop it, its address, the path that tells and its environment have places, too."""
    config = config_of(
        "  m: {backend: box, cmd: x, stop: 'docker stop {model}', url: 'http://{host}:{port}/api', "
        "ready: '/{host}', env: {A: '{port}', B: 0}}",
        "macros: {host: h}",
    )
    command = Command.of(config.models["m"], VALUES)

    assert command.stop == ("docker", "stop", "m")
    assert (command.url, command.ready, command.variables) == (
        "http://h:9500/api",
        "/h",
        {"A": "9500", "B": "0"},
    )


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("cmd: 'cd /x && serve'", "cmd: '&&' is for a shell, and there is none; write: sh -c '...'"),
        ("cmd: 'serve | tee x'", "cmd: '|' is for a shell"),
        ("cmd: 'serve \"a'", "cmd: cannot be split: no closing quotation"),
        ("cmd: ''", "cmd: names no program"),
        ("cmd: '# serve'", "cmd: names no program"),
        (f'cmd: "{chr(92)}n{" " * 99}"', "cmd: names no program"),
        (f'cmd: "{(chr(92) + "n") * 30_000}"', "cmd: names no program"),
        (f"cmd: '{'serve ' * 6_000}'", "cmd: longer than 32768 characters"),
        ("cmd: [serve]", "cmd: not a command"),
        ("cmd: 'serve {prot}'", "cmd: there is no {prot} here: known are {port}, {model}"),
        ('cmd: "serve a\\0b"', "cmd: no program can be given a NUL"),
        ('cmd: "serve \\ud800"', "cmd: a character in it has no place in UTF-8"),
        ("cmd: 'serve {parallel}'", "cmd: {parallel} has no value; set parallel here or for the backend"),
        ("{}", "cmd: missing; the backend 'box' runs a command for each of its models"),
        ("cmd: x, url: 'ftp://h'", "url: not a URL; "),
        ("cmd: x, url: 'http://{model}/{x}'", "url: there is no {x} here"),
        ("cmd: x, ready: health", "ready: not a path of a URL; write it like /health"),
        ("cmd: x, env: {A B: x}", "env.A B: not the name of a variable"),
        ("cmd: x, env: {A: true}", "env.A: write it as a text, in quotes"),
        ("cmd: x, load: {gpu_layers: 1}", "load.gpu_layers: the model's cmd says how it is loaded"),
    ],
)
def test_what_cannot_be_run_is_told(model, problem):
    """What would fail when the model is loaded, or do something else than it seems to, is told before."""
    fields = "" if model == "{}" else f", {model}"

    (told,) = problems_of(f"  m: {{backend: box{fields}}}")

    assert told.startswith(f"models.m.{problem}")


def test_only_a_server_that_is_asked_by_a_name_may_have_one_of_its_own():
    """A backend that loads models by the names it has for them is asked by these."""
    text = (
        "devices: {g: {}}\nbackends: {e: {kind: lmstudio, url: 'http://h', device: g}}\n"
        "models: {m: {backend: e, served_model_name: x}}"
    )

    with pytest.raises(ConfigProblem) as caught:
        parse(text, {})

    assert caught.value.problems == [
        "models.m.served_model_name: this backend's models go by the names that it has for them"
    ]


def test_a_command_needs_a_backend_that_runs_it():
    """A command without such a backend, and what belongs to a command where there is none, are told."""
    other = "  n: {backend: x, cmd: serve}\n  o: {cmd: serve}\n  p: {stop: a, env: {}, url: 'http://h'}\n"
    text = "backends: {x: {kind: openai, url: 'http://h'}}\nmodels:\n" + other

    with pytest.raises(ConfigProblem) as caught:
        parse(text, {})

    assert caught.value.problems == [
        "models.n.cmd: set backend to one that runs commands",
        "models.o.cmd: set backend to one that runs commands",
        "models.p.env: has no effect without cmd",
        "models.p.stop: has no effect without cmd",
        "models.p.url: has no effect without cmd",
    ]


@pytest.mark.parametrize("ports", ["80-90", "9600-9500", "a", "9500-", "9500-70000", "-1", "1.5", "true"])
def test_ports_are_a_range(ports):
    """What is no range of ports that anybody may use is refused; one port is a range too."""
    assert problems_of("  m: {backend: box, cmd: x}", section=f"ports: {ports}") == [
        "backends.box.ports: not a range of ports from 1024 on; write it like 9500-9600"
    ]
    one = config_of("  m: {backend: box, cmd: x}", section="ports: 9500").backends["box"]
    assert one.ports == (9500, 9500)  # type: ignore[attr-defined]


def test_macros_have_names_of_their_own():
    """A macro cannot be called like what dmap fills in, nor in a way that no place can be written."""
    assert problems_of("  m: {backend: box, cmd: x}", "macros: {port: a, Big: b}") == [
        "macros.port: this is filled in when a command is run; choose another name",
        "macros.Big: a name has small letters, digits and _, first a letter",
    ]


def test_macros_unfold_within_bounds():
    """Macros that would unfold to more than a memory holds are refused at once."""
    levels = "".join(f", m{level}: '{f'{{m{level - 1}}}' * 20}'" for level in range(1, 20))

    assert problems_of("  m: {backend: box, cmd: '{m19}'}", f"macros: {{m0: aaaaaaaaaa{levels}}}") == [
        "the file: macros: they unfold to too much"
    ]


@pytest.mark.parametrize("macros", ["[a]", "{a: [b]}", "{a: {b: c}}", "x"])
def test_macros_are_texts(macros):
    """What is no table of texts is told as such."""
    assert problems_of("  m: {backend: box, cmd: x}", f"macros: {macros}")
