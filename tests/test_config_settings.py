"""Entries under `models`: globs that hold for many, variants of one, and what neither can say."""

import time

import pytest

from dmap.config import ConfigProblem, Settings, parse
from dmap.sections import ModelSection
from dmap.sections.models import is_glob

BOX = "devices: {gpu0: {}}\nbackends: {box: {kind: gguf, path: ., device: gpu0}}\n"
RUN = "devices: {gpu0: {}}\nbackends: {run: {kind: process, device: gpu0}}\n"
SHARED = "a variant shares the resident of 'a'; say this there"
ITSELF = "a variant of itself; name the model that it shall share"
NO_NAMES = "a glob fits no names here; only '*' alone takes those that nobody knows"
NOWHERE = ["models.q*.backend: there is no backend 'nowhere' under backends"]


def settings(models: str) -> Settings:
    """Return the settings of *models*, in YAML."""
    return parse(f"{BOX}models: {{{models}}}", {}).settings


@pytest.mark.parametrize(
    ("name", "expected"),
    [("qwen/*", True), ("q?", True), ("*", True), ("a[b]*", True), ("q[v2]", False), ("qwen", False)],
)
def test_which_names_are_globs(name, expected):
    """A star or a question mark makes a glob; a bracket alone does not, for names of files have it."""
    assert is_glob(name) is expected


@pytest.mark.parametrize(
    ("name", "ttl_s"),
    [
        ("qwen/a", 1),
        ("QWEN/A", 1),
        ("qwen/", 1),
        ("qwen/a/b", 1),
        ("qwen/big-7b", 2),
        ("my/qwen/a", 9),
        ("q[v2]", 3),
        ("qv", 9),
        ("Own", 4),
        ("OWN", 4),
        ("llama-3", 5),
    ],
)
def test_what_holds_for_a_name(name, ttl_s):
    """A glob fits whole names in whatever letters; the longest one goes first, and an entry before all."""
    said = settings(
        "'*': {ttl_s: 9}, 'qwen/*': {ttl_s: 1}, 'qwen/*-7b': {ttl_s: 2}, 'q[v2]': {ttl_s: 3}, Own: {ttl_s: 4}"
        ", 'LLaMA-*': {ttl_s: 5}"
    )

    assert said.of(name).ttl_s == ttl_s


def test_what_an_entry_leaves_out_comes_from_globs():
    """Key by key what is closest to the model holds; what is stripped and permitted adds up."""
    said = settings(
        "'*': {ttl_s: 9, parallel: 2, defaults: {top_k: 9, seed: 9}, strip: [a], load: {cpu_threads: 2}},"
        "'q*': {parallel: 3, defaults: {top_k: 3, top_p: 0.3}, strip: [b], permit: [options]},"
        "qwen: {defaults: {top_k: 1}, strip: [c, a], permit: [image_url], aliases: [x]}"
    ).of("qwen")

    assert said == ModelSection(
        aliases=("x",),
        ttl_s=9,
        parallel=3,
        defaults={"top_k": 1, "top_p": 0.3, "seed": 9},
        strip=("a", "b", "c"),
        permit=("options", "image_url"),
        load={"cpu_threads": 2},
    )


def test_an_entry_can_take_back_what_a_glob_says():
    """A value of `null` is said, too."""
    assert settings("'*': {ttl_s: 9}, qwen: {ttl_s: null}").of("qwen").ttl_s is None


def test_a_name_that_nothing_fits():
    """Of a model that nobody has said anything of, nothing is said."""
    assert settings("'qwen/*': {ttl_s: 1}, own: {ttl_s: 2}").of("llama") == ModelSection()


def test_another_name_of_a_model():
    """An entry may call a model by another of its names; globs go by the first."""
    said = settings("'q*': {parallel: 2}, 'a@q4': {ttl_s: 2}, 'b@*': {ttl_s: 3}")

    assert said.of("a", "a@q8", "A@Q4") == ModelSection(ttl_s=2)
    assert said.of("b", "b@q8") == ModelSection()


def test_many_names_and_globs_are_looked_up_at_once():
    """Names that a server lists by the ten thousand are remembered, but not for ever."""
    said = settings(", ".join(f"'pub{n}/*': {{ttl_s: {n + 1}}}" for n in range(20)))
    began = time.process_time()

    found = {said.of(f"pub{n % 20}/model-{n}").ttl_s for n in range(25_000)}

    assert found == set(range(1, 21))
    assert len(said._known) <= 10_000
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("models", "problems"),
    [
        # variants
        ("a: {}, v: {of: a, defaults: {seed: 1}, strip: [x], permit: [options], aliases: [w]}", []),
        ("a: {aliases: [b]}, v: {of: b}", []),
        ("v: {of: only-a-backend-has-it}", []),
        (
            "a: {}, v: {of: a, memory: 1GiB}",
            [f"models.v.memory: {SHARED}"],
        ),
        (
            "a: {}, v: {of: a, load: {context_length: 512}, pin: true, ttl_s: 5, backend: box}",
            [
                f"models.v.backend: {SHARED}",
                f"models.v.load: {SHARED}",
                f"models.v.pin: {SHARED}",
                f"models.v.ttl_s: {SHARED}",
            ],
        ),
        (
            "a: {}, v: {of: a, cmd: x, tokenizer: t.json, parallel: 2}",
            [
                f"models.v.cmd: {SHARED}",
                f"models.v.parallel: {SHARED}",
                f"models.v.tokenizer: {SHARED}",
            ],
        ),
        ("v: {of: v}", [f"models.v.of: {ITSELF}"]),
        ("v: {of: V}", [f"models.v.of: {ITSELF}"]),
        (
            "v: {of: w, aliases: [w]}",
            [f"models.v.of: {ITSELF}"],
        ),
        ("a: {}, v: {of: a}, w: {of: v}", ["models.w.of: 'v' is itself a variant; name its model, 'a'"]),
        (
            "a: {}, v: {of: a, aliases: [x]}, w: {of: x}",
            ["models.w.of: 'x' is itself a variant; name its model, 'a'"],
        ),
        ("v: {of: 'a*'}", ["models.v.of: names no single model"]),
        ("v: {of: ''}", ["models.v.of: names no single model"]),
        ("a: {}, v: {of: a, aliases: [a]}", ["models.v.aliases: 'a' already means 'a'"]),
        # names that take any
        ("a: {aliases: ['*']}", []),
        ("'*': {ttl_s: 1}, a: {aliases: ['*']}", []),
        ("a: {}, v: {of: a, aliases: ['*']}", []),
        ("a: {aliases: ['*']}, b: {aliases: ['*']}", ["models.b.aliases: '*' already means 'a'"]),
        (
            "a: {aliases: ['gpt-*']}",
            [f"models.a.aliases[0]: {NO_NAMES}"],
        ),
        ("a: {aliases: [' ']}", ["models.a.aliases[0]: an empty name means no model"]),
        # globs
        ("'q*': {backend: box, ttl_s: 1, memory: 1GiB, load: {context_length: 512}, tokenizer: t}", []),
        (
            "'q*': {aliases: [x]}",
            ["models.q*.aliases: an alias means one model, and this glob fits many; give it to one of them"],
        ),
        (
            "'q*': {pin: true}",
            ["models.q*.pin: this glob may fit more models than the device holds; pin each by its name"],
        ),
        ("'q*': {of: a}", ["models.q*.of: a variant needs a name of its own, and this is a glob"]),
        (
            "'q*': {cmd: x, url: 'http://x'}",
            [
                "models.q*.cmd: a glob runs nothing; which models are commands shows by entries of their own",
                "models.q*.url: a glob runs nothing; which models are commands shows by entries of their own",
            ],
        ),
        ("'q*': {backend: nowhere}", NOWHERE),
        (
            "'q*': {backend: nowhere}, qwen: {}",
            NOWHERE,
        ),
    ],
)
def test_what_does_not_fit_together(models, problems):
    """What an entry cannot say, or means nobody, is told with its path and what to do."""
    assert problems_of(f"{BOX}models: {{{models}}}") == problems


def test_a_variant_of_nobody():
    """Where no backend has models that the file does not name, a variant of another one is of nobody."""
    assert problems_of(f"{RUN}models: {{a: {{backend: run, cmd: x}}, v: {{of: b}}}}") == [
        "models.v.of: there is no model 'b', and no backend has models that are not named here"
    ]


def test_a_command_whose_backend_a_glob_names():
    """What a glob says counts in the checks of the entries that it fits."""
    models = "models: {'c-*': {backend: run, parallel: 2}, c-a: {cmd: 'x {parallel}'}, c-b: {}}"

    assert problems_of(RUN + models) == [
        "models.c-b.cmd: missing; the backend 'run' runs a command for each of its models"
    ]


def problems_of(text: str) -> list[str]:
    """Return all that is wrong with the configuration *text*."""
    try:
        parse(text, {})
    except ConfigProblem as exc:
        return exc.problems
    return []
