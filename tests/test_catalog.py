"""From a model's name to its route: aliases, lists, addresses, and backends that have not answered."""

import pytest

from dmap.access import Client
from dmap.catalog import Catalog
from dmap.config import parse
from dmap.errors import AccessDenied, BackendDown, BadRequest, ModelNotFound
from dmap.trip import ModelInfo, ModelKey, Route

ANYONE = Client("anyone")
TWO = "backends: {a: {kind: openai, url: 'http://a'}, b: {kind: openai, url: 'http://b'}}\n"
BOX = "devices: {gpu0: {}}\nbackends: {box: {kind: gguf, path: ., device: gpu0}}\n"


def catalog(text: str, **lists: list[str | ModelInfo] | None) -> Catalog:
    """A catalog of the configuration *text*, told what each backend has."""
    made = Catalog(parse(text, {}))
    for backend, models in lists.items():
        made.update(backend, models and [_info(model) for model in models])
    return made


def _info(model: str | ModelInfo) -> ModelInfo:
    return model if isinstance(model, ModelInfo) else ModelInfo(model, resident=True)


def ids(catalog: Catalog, client: Client = ANYONE) -> list[str]:
    """Return the names that *client* sees, in order."""
    return [listed["id"] for listed in catalog.listing(client, ())]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("m", ModelKey("a", "m")),
        ("n", ModelKey("b", "n")),
        ("both", ModelKey("a", "both")),
        ("a/m", ModelKey("a", "m")),
        ("a/both", ModelKey("a", "both")),
        ("b/both", ModelKey("b", "both")),
        ("b/org/x", ModelKey("b", "org/x")),
        ("org/x", ModelKey("b", "org/x")),
    ],
)
def test_a_name_leads_to_a_model(name, key):
    """A model is asked for by its name, of the first backend in the file that has it, or as backend/model."""
    made = catalog(TWO, b=["n", "both", "org/x"], a=["m", "both"])

    assert made.resolve(name, ANYONE) == Route(key)


@pytest.mark.parametrize("name", ["mm", "m ", "a/n", "c/m", "/m", "m\x00", "*"])
def test_another_spelling_is_another_model(name):
    """An unknown name is 404 with the field's name."""
    made = catalog(TWO, a=["m"], b=["n"])

    with pytest.raises(ModelNotFound) as refused:
        made.resolve(name, ANYONE)

    assert (refused.value.status, refused.value.param) == (404, "model")


@pytest.mark.parametrize("name", ["Org/M", "org/m@q4_k_m", "ORG/M@Q8", "a/org/m", "org/m:2"])
def test_one_model_under_many_spellings(name):
    """Other letters, a `@quant`, and the other names that its backend has for it mean the same model."""
    made = Catalog(parse(TWO, {}))
    made.update("a", [ModelInfo("org/m", resident=True, names=("org/m:2",))])

    assert made.resolve(name, ANYONE).key == ModelKey("a", "org/m")


def test_letters_tell_two_models_apart_where_both_are():
    """A name in its own letters goes before one in others."""
    made = catalog(TWO, a=["m", "M"])

    assert [made.resolve(name, ANYONE).key.model for name in ("m", "M")] == ["m", "M"]


def test_no_name_is_refused():
    """A request has to name a model."""
    with pytest.raises(BadRequest):
        catalog(TWO).resolve(None, ANYONE)


def test_a_long_name_is_not_repeated_whole():
    """A name that some client made very long does not fill the answer."""
    with pytest.raises(ModelNotFound) as refused:
        catalog(TWO, a=[], b=[]).resolve("x" * 10_000, ANYONE)

    assert len(refused.value.message) < 400


# What the configuration says of a model


def test_a_route_has_what_the_file_says():
    """A route has the model's own settings, its defaults before those for every model."""
    text = (
        BOX
        + """
defaults: {temperature: 0.7, max_tokens: 100}
models:
  m:
    aliases: [gpt]
    defaults: {temperature: 0.1, stop: END}
    load: {context_length: 8192}
    memory: 6GiB
    parallel: 2
    pin: true
    permit: [image_url]
"""
    )
    made = catalog(text, box=[ModelInfo("m", resident=False, size_bytes=5, parallel=4)])

    assert made.resolve("gpt", ANYONE) == Route(
        key=ModelKey("box", "m"),
        device="gpu0",
        size_bytes=6 * 2**30,
        size_given=True,
        parallel=2,
        pin=True,
        load={"context_length": 8192},
        defaults={"temperature": 0.1, "max_tokens": 100, "stop": ("END",)},
        permit=frozenset({"image_url"}),
    )


def test_what_runs_at_once_is_the_least_that_is_said():
    """A model's `parallel` never goes over its backend's: the rest would wait where nobody sees it."""
    made = catalog(BOX + "models: {m: {parallel: 9}}", box=[ModelInfo("m", resident=False, parallel=4)])

    assert made.resolve("m", ANYONE).parallel == 4


def test_a_route_has_what_the_backend_says():
    """Where the file is silent, the backend's own word counts."""
    made = catalog(BOX, box=[ModelInfo("e", resident=False, size_bytes=5, parallel=4, embedding=True)])

    assert made.resolve("e", ANYONE) == Route(
        ModelKey("box", "e"), device="gpu0", embedding=True, size_bytes=5, parallel=4
    )


def test_the_backend_of_a_model_can_be_chosen():
    """A model that two backends have is the one of the backend that the file names."""
    made = catalog(TWO + "models: {both: {backend: b}}", a=["both"], b=["both"])

    assert made.resolve("both", ANYONE).key == ModelKey("b", "both")


def test_a_model_of_the_file_need_not_be_listed():
    """A server that cannot switch need not list a model to answer for it."""
    made = catalog(TWO + "models: {hidden: {backend: a, aliases: [h]}}", a=[], b=None)

    assert made.resolve("h", ANYONE).key == ModelKey("a", "hidden")
    assert ids(made) == ["hidden", "h"]


@pytest.mark.parametrize("order", [["gpt", "m"], ["m", "gpt"]])
def test_an_alias_goes_before_a_listed_model(order):
    """The file's alias means its model, even if a backend has a model of that name, and is listed once."""
    made = catalog(TWO + "models: {m: {aliases: [gpt]}}", a=order, b=[])

    assert made.resolve("gpt", ANYONE).key == ModelKey("a", "m")
    assert made.resolve("a/gpt", ANYONE).key == ModelKey("a", "gpt")
    assert sorted(ids(made)) == ["gpt", "m"]


# What may be used


@pytest.mark.parametrize(
    ("globs", "name"),
    [(("qwen*",), "qwen"), (("gpt",), "qwen"), (("qwen",), "gpt"), (("qwen",), "a/qwen"), (("*",), "qwen")],
)
def test_a_key_may_use_its_models(globs, name):
    """A key that may use a model by any of its names may use it by all of them."""
    made = catalog(TWO + "models: {qwen: {aliases: [gpt]}}", a=["qwen"], b=[])

    assert made.resolve(name, Client("k", globs)).key == ModelKey("a", "qwen")


@pytest.mark.parametrize("name", ["llama", "a/llama"])
def test_a_key_may_not_use_others(name):
    """A model that is not the key's is 403, whatever it is called by."""
    made = catalog(TWO, a=["qwen", "llama"], b=[])

    with pytest.raises(AccessDenied, match="access.keys"):
        made.resolve(name, Client("k", ("qwen*",)))


def test_a_key_sees_its_models_only():
    """The list has what the key may use, aliases too, and nothing else."""
    made = catalog(TWO + "models: {qwen: {aliases: [gpt]}}", a=["qwen", "llama"], b=["qwen-vl"])

    assert ids(made, Client("k", ("qwen*",))) == ["qwen", "gpt", "qwen-vl"]
    assert ids(made, Client("k", ("gpt",))) == ["qwen", "gpt"]
    assert ids(made, Client("k", ())) == []


@pytest.mark.parametrize("name", ["llama", "a/llama", "l"])
def test_what_the_file_does_not_allow_does_not_exist(name):
    """A model that fits none of `allow_models` is neither listed nor served, by any name."""
    text = TWO + "allow_models: ['qwen*']\nmodels: {llama: {aliases: [l]}}"
    made = catalog(text, a=["qwen", "llama"], b=[])

    assert ids(made) == ["qwen"]
    with pytest.raises(ModelNotFound):
        made.resolve(name, ANYONE)


def test_an_alias_needs_no_place_on_the_list():
    """`allow_models` is about models; their aliases come with them."""
    made = catalog(TWO + "allow_models: [qwen]\nmodels: {qwen: {aliases: [gpt]}}", a=["qwen"], b=[])

    assert ids(made) == ["qwen", "gpt"]


# Backends that do not answer


@pytest.mark.parametrize("name", ["m", "gpt", "b/m", "anything"])
def test_a_backend_that_never_answered_may_have_it(name):
    """As long as a backend has not answered once, a model it may have is 503, not 404."""
    text = TWO + "allow_models: [m, anything]\nmodels: {m: {aliases: [gpt]}}"
    made = catalog(text, a=["other"])

    with pytest.raises(BackendDown) as refused:
        made.resolve(name, ANYONE)

    assert (refused.value.status, refused.value.headers()) == (503, {"Retry-After": "5"})


@pytest.mark.parametrize("name", ["llama", "b/llama", "a/m"])
def test_what_a_silent_backend_may_not_have_does_not_exist(name):
    """A model that is not allowed, or is asked of a backend that has answered, is 404 all the same."""
    made = catalog(TWO + "allow_models: ['q*', m]", a=["q"])

    with pytest.raises(ModelNotFound):
        made.resolve(name, ANYONE)


def test_a_backend_that_fell_silent_keeps_its_models():
    """What a backend last said stays known while it does not answer."""
    made = catalog(TWO, a=["m"], b=["n"])

    made.update("a", None)

    assert made.resolve("m", ANYONE).key == ModelKey("a", "m")
    assert ids(made) == ["m", "n"]


def test_a_backend_says_it_anew():
    """What a backend says replaces what it said before."""
    made = catalog(TWO, a=["m"], b=[])

    made.update("a", [ModelInfo("n", resident=True)])

    assert ids(made) == ["n"]


# The list


def test_a_listed_model_in_full():
    """A model is listed as OpenAI does it, and with what dmap knows besides."""
    made = catalog(
        BOX + "models: {m: {aliases: [gpt]}}", box=[ModelInfo("m", resident=False, context_length=4096)]
    )

    model, alias = made.listing(ANYONE, [])

    assert model == {
        "id": "m",
        "object": "model",
        "created": 0,
        "owned_by": "box",
        "resident": False,
        "context_length": 4096,
        "embedding": False,
    }
    assert alias == {**model, "id": "gpt", "alias_of": "m"}


@pytest.mark.parametrize(
    ("text", "backend", "told", "loaded", "resident"),
    [
        (BOX, "box", False, [ModelKey("box", "m")], True),
        (BOX, "box", True, [], False),
        (BOX, "box", True, [ModelKey("box", "other")], False),
        (TWO, "a", True, [], True),
        (TWO, "a", False, [ModelKey("a", "m")], False),
    ],
)
def test_who_knows_what_is_resident(text, backend, told, loaded, resident):
    """On a device the arbiter knows what is resident, elsewhere the backend."""
    made = catalog(text, **{backend: [ModelInfo("m", resident=told)]})

    assert [model["resident"] for model in made.listing(ANYONE, loaded)] == [resident]
