"""What a name means beyond a model's own: variants, globs, files, and names that nobody knows."""

import pytest

from dmap.access import Client
from dmap.catalog import Contexts, as_openai, v0, v1
from dmap.catalog.core import Catalog
from dmap.config import parse
from dmap.errors import BackendDown, ModelNotFound
from dmap.models import ModelInfo, ModelKey, Route
from dmap.state import Activation, Saved
from tests.test_catalog import ANYONE, BOX, STUDIO, TWO, catalog, ids, listing, told

QWEN = ModelKey("a", "qwen")
THINK = "'qwen:think': {of: qwen, defaults: {temperature: 0.6, seed: 1}, aliases: [think]}"


def route(made: Catalog, name: str | None, client: Client = ANYONE) -> Route:
    return made.resolve(name, client)[0]


# Variants


@pytest.mark.parametrize("name", ["qwen:think", "think", "QWEN:Think"])
@pytest.mark.parametrize("of", ["qwen", "Qwen", "a/qwen", "gpt", "qwen:2"])
def test_a_variant_is_its_model_with_other_parameters(name, of):
    """A variant leads to its model, by whatever name the file calls either."""
    text = f"{TWO}models: {{qwen: {{aliases: [gpt]}}, 'qwen:think': {{of: '{of}', aliases: [think]}}}}"
    made = catalog(text, a=[ModelInfo("qwen", resident=True, names=("qwen:2",))], b=[])

    assert route(made, name) == route(made, "qwen") == Route(QWEN)


def test_whose_parameters_go_first():
    """What was set for a variant goes first, then its own, then its model's, then everybody's."""
    text = (
        f"{TWO}defaults: {{temperature: 0.1, top_k: 1, top_p: 0.1, min_p: 0.1, seed: 9, max_tokens: 1}}\n"
        "models: {qwen: {defaults: {top_k: 2, top_p: 0.2, min_p: 0.2, seed: 8}, force: {top_k: 5},"
        "  strip: [x], permit: [options]},"
        "  v: {of: qwen, defaults: {min_p: 0.4, seed: 7}, force: {max_tokens: 4},"
        "  strip: [y], permit: [image_url]}}"
    )
    made = catalog(text, a=["qwen"], b=[])
    made.choose(
        Saved(models={"qwen": Activation({"top_p": 0.3, "min_p": 0.3}), "v": Activation({"seed": 6})})
    )

    variant = route(made, "v")

    assert variant.defaults == {
        "temperature": 0.1,
        "top_k": 2,
        "top_p": 0.3,
        "min_p": 0.4,
        "seed": 6,
        "max_tokens": 1,
    }
    assert (variant.force, variant.strip) == ({"top_k": 5, "max_tokens": 4}, {"x", "y"})
    assert variant.permit == {"options", "image_url"}
    assert route(made, "qwen").defaults["seed"] == 8
    assert made.route_of(QWEN) == route(made, "qwen")


def test_a_load_is_the_models():
    """What is set for the load of a variant by its own name means nothing: what is loaded is its model."""
    made = catalog(f"{BOX}models: {{{THINK}}}", box=["qwen"])
    made.choose(
        Saved(
            models={
                "qwen:think": Activation(load={"context_length": 512}),
                "qwen": Activation({}, {"cpu_threads": 2}),
            }
        )
    )

    assert route(made, "qwen:think").load == route(made, "qwen").load == {"cpu_threads": 2}


def test_a_variant_of_a_model_that_is_not_there():
    """A variant of nobody is 404, and not listed, until its model comes."""
    made = catalog(f"{TWO}models: {{{THINK}}}", a=["llama"], b=[])

    assert ids(made) == ["llama"]
    with pytest.raises(ModelNotFound):
        made.resolve("qwen:think", ANYONE)
    made.update("b", [ModelInfo("qwen", resident=True)])
    assert route(made, "think").key == ModelKey("b", "qwen")
    assert ids(made) == ["llama", "qwen", "qwen:think", "think"]


def test_a_variant_of_a_model_that_may_come():
    """As long as its model may be on a backend that has not answered, a variant is 503."""
    made = catalog(f"{TWO}models: {{{THINK}}}", a=["llama"])

    with pytest.raises(BackendDown):
        made.resolve("qwen:think", ANYONE)


def test_a_variant_goes_before_a_model_of_its_name():
    """What the file names goes before what a backend has."""
    made = catalog(f"{TWO}models: {{{THINK}}}", a=["qwen", "qwen:think"], b=[])

    assert route(made, "qwen:think").key == QWEN
    assert route(made, "a/qwen:think").key == ModelKey("a", "qwen:think")
    assert ids(made) == ["qwen", "qwen:think", "think"]


@pytest.mark.parametrize(
    ("globs", "allowed"),
    [
        (("qwen:think",), {"qwen:think", "think"}),
        (("think",), {"qwen:think", "think"}),
        (("qwen",), {"qwen", "a/qwen", "gpt", "QWEN"}),
        (("gpt",), {"qwen", "a/qwen", "gpt", "QWEN"}),
        (("qwen*",), {"qwen:think", "think", "qwen", "a/qwen", "gpt", "QWEN"}),
        (("a/*", "llama"), set()),
    ],
)
def test_a_key_gets_a_variant_by_its_own_names(globs, allowed):
    """Who may use a variant may not for that reason use its model, and not the other way round."""
    made = catalog(f"{TWO}models: {{qwen: {{aliases: [gpt]}}, {THINK}}}", a=["qwen"], b=[])
    client = Client("k", globs)

    got = {
        name
        for name in ("qwen:think", "think", "qwen", "a/qwen", "gpt", "QWEN")
        if told(made, name, client)[0][0] == "("
    }

    assert got == allowed
    assert set(ids(made, client)) == allowed - {"a/qwen", "QWEN"}
    assert made.allows(client, QWEN) is ("qwen" in allowed)


@pytest.mark.parametrize(
    ("allow", "listed"),
    [
        ("qwen", ["qwen"]),
        ("'qwen:*'", ["qwen:think", "think"]),
        ("'q*'", ["qwen", "qwen:think", "think"]),
        ("think", []),
    ],
)
def test_what_the_file_allows_of_variants(allow, listed):
    """`allow_models` goes by a variant's own name, too; its model need not be allowed for that."""
    made = catalog(f"{TWO}models: {{{THINK}}}\nallow_models: [{allow}]", a=["qwen"], b=[])
    made.choose(Saved(models={"qwen": Activation({"top_k": 3})}))

    assert ids(made) == listed
    assert [route(made, name).defaults["top_k"] for name in listed] == [3] * len(listed)
    assert (made.route_of(QWEN) is not None) is bool(listed)


def test_a_listed_variant():
    """A variant is listed as resident as its model, which it names to whoever may know."""
    made = catalog(f"{BOX}models: {{{THINK}}}", box=[ModelInfo("qwen", resident=False, context_length=512)])

    model, variant, alias = listing(made, [ModelKey("box", "qwen")])

    assert variant == {**model, "id": "qwen:think", "variant_of": "qwen"}
    assert alias == {**variant, "id": "think", "alias_of": "qwen:think"}
    assert model["resident"] is True
    only = made.show("think", Client("k", ("qwen:*",)), [])
    assert as_openai(only) == {
        **{name: value for name, value in alias.items() if name != "variant_of"},
        "resident": False,
    }


def test_a_variant_in_lm_studios_lists():
    """There a variant is a model of its own name, loaded as the instance of that name."""
    own = {"type": "llm", "key": "qwen", "display_name": "Qwen", "loaded_instances": [{"id": "qwen:2"}]}
    info = ModelInfo("qwen", resident=True, context_length=512, names=("qwen:2",), v1=own)
    made = catalog(f"{STUDIO}models: {{{THINK}}}", lm=[info])

    shown = made.show("qwen:think", ANYONE, [ModelKey("lm", "qwen")])

    assert (v1(shown)["key"], v1(shown)["display_name"]) == ("qwen:think", "qwen:think")
    assert v1(shown)["loaded_instances"] == [{"id": "qwen:think", "config": {"context_length": 512}}]
    assert (v0(shown)["id"], v0(shown)["state"]) == ("qwen:think", "loaded")
    assert not shown.is_alias


def test_an_active_variant():
    """A variant can be what requests get that name no model."""
    made = catalog(f"{TWO}models: {{{THINK}}}", a=["qwen"], b=[])

    made.choose(Saved(active="think"))

    assert made.active == "qwen:think"
    assert route(made, None).defaults == {"temperature": 0.6, "seed": 1}
    assert [one["id"] for one in listing(made) if one.get("active")] == ["qwen:think", "think"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("think", ("qwen:think", "qwen")),
        ("QWEN", ("qwen", "qwen")),
        ("A/QWEN", ("a/qwen", "a/qwen")),
        ("b/qwen", ("b/qwen", "b/qwen")),
    ],
)
def test_under_which_names_settings_are_kept(name, kept):
    """A variant's settings have its name, their load its model's; one of several copies has its address."""
    assert catalog(f"{TWO}models: {{{THINK}}}", a=["qwen"], b=["qwen"]).kept_as(name) == kept


# Globs


def test_a_glob_holds_for_models_without_an_entry():
    """What a glob says holds for all models that fit; their own entries go first."""
    text = (
        f"{TWO}models: {{'qwen/*': {{backend: b, defaults: {{seed: 1, top_k: 1}}, tokenizer: t.json}},"
        " qwen/own: {defaults: {seed: 2}}}"
    )
    made = catalog(text, a=["qwen/x", "qwen/own", "llama"], b=["qwen/x", "Qwen/Own"])

    assert route(made, "qwen/x").key == ModelKey("b", "qwen/x")
    assert route(made, "qwen/x").defaults == {"seed": 1, "top_k": 1}
    assert route(made, "qwen/own").defaults == {"seed": 2, "top_k": 1}
    assert route(made, "qwen/own").tokenizer == route(made, "qwen/x").tokenizer
    assert made.resolve("qwen/own", ANYONE)[0].key.backend == "b"
    assert route(made, "llama").defaults == {}
    with pytest.raises(ModelNotFound):
        made.resolve("a/qwen/x", ANYONE)


@pytest.mark.parametrize("name", ["qwen/*", "qwen/?", "*"])
def test_a_glob_is_no_name(name):
    """Nobody can ask for a glob."""
    made = catalog(
        f"{TWO}models: {{'qwen/*': {{ttl_s: 1, backend: b}}}}".replace("ttl_s: 1, ", ""), a=[], b=["qwen/x"]
    )

    assert ids(made) == ["qwen/x"]
    with pytest.raises(ModelNotFound):
        made.resolve(name, ANYONE)


def test_the_context_that_a_glob_says():
    """A backend is told the context of any model, that of a glob too; what was set here goes first."""
    text = f"{BOX}models: {{'q*': {{load: {{context_length: 512}}}}, own: {{load: {{context_length: 256}}}}}}"
    contexts = Contexts(parse(text, {}).settings, {"qwen": Activation(load={"context_length": 1024})})

    assert [contexts.get(name) for name in ("qwen", "q2", "own", "other")] == [1024, 512, 256, None]
    assert dict(contexts) == {"own": 256, "qwen": 1024}
    assert len(contexts) == 2


# Files


FLAT = ModelInfo("m.Q4", resident=False, file="m.Q4.gguf", names=("m.Q4.gguf",))
DEEP = ModelInfo(
    "pub/repo/d.Q4",
    resident=False,
    file="pub/repo/d.Q4.gguf",
    names=("d.Q4", "pub/repo/d.Q4.gguf", "repo/d.Q4.gguf", "d.Q4.gguf", "pub/repo"),
)
PART = ModelInfo("big", resident=False, file="big-00001-of-00002.gguf")
TWIN, OTHER = (ModelInfo(f"{one}/t", resident=False, file=f"{one}/t.gguf") for one in ("x", "y"))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("m.Q4.gguf", "m.Q4"),
        ("M.q4.GGUF", "m.Q4"),
        ("TheBloke/m-GGUF/m.Q4.gguf", "m.Q4"),
        ("/models/m.Q4.gguf", "m.Q4"),
        ("d.Q4.gguf", "pub/repo/d.Q4"),
        ("repo/d.Q4.gguf", "pub/repo/d.Q4"),
        ("pub/repo/d.Q4.gguf", "pub/repo/d.Q4"),
        ("/home/me/models/pub/repo/d.Q4.gguf", "pub/repo/d.Q4"),
        ("big-00001-of-00002.gguf", "big"),
        ("pub/big-00001-of-00002.gguf", "big"),
        ("x/t.gguf", "x/t"),
        ("Y/t.gguf", "y/t"),
    ],
)
def test_a_file_means_its_model(name, model):
    """A file's whole name means its model, with more folders before it than are known here, too."""
    made = catalog(BOX, box=[FLAT, DEEP, PART, TWIN, OTHER])

    assert route(made, name).key.model == model


@pytest.mark.parametrize(
    "name",
    [
        "m.gguf",
        "Q4.gguf",
        "4.gguf",
        "om.Q4.gguf",
        "m.Q4.gguf.gguf",
        "m.Q4.gguf/",
        "other/repo/d.Q4.gguf",
        "other/d.Q4.gguf",
        "po/d.Q4.gguf",
        "repo/d.Q4",
        "t.gguf",
        "z/t.gguf",
        "big-00002-of-00002.gguf",
        "big.gguf",
        ".gguf",
        "/",
    ],
)
def test_no_part_of_a_file_means_a_model(name):
    """A part of a name, another's path, or a name that two files have, means nobody."""
    made = catalog(BOX, box=[FLAT, DEEP, PART, TWIN, OTHER])

    with pytest.raises(ModelNotFound):
        made.resolve(name, ANYONE)


def test_one_file_on_two_backends():
    """Of two backends that have the same model, the first of the file has its file, too."""
    assert route(catalog(TWO, a=[DEEP], b=[DEEP]), "d.Q4.gguf").key.backend == "a"


@pytest.mark.parametrize("name", ["d.Q4.gguf", "d.Q4", "repo/d.Q4.gguf"])
def test_an_entry_may_name_the_file(name):
    """The file may be named under `models`, too, with its suffix or without; its folder may not."""
    text = "'M.Q4.gguf': {parallel: 1}, NAME: {parallel: 2}, pub/repo: {parallel: 3}".replace("NAME", name)
    made = catalog(f"{BOX}models: {{{text}}}", box=[FLAT, DEEP])

    assert [route(made, name).needs.parallel for name in ("m.Q4", "d.Q4")] == [1, 2]


@pytest.mark.parametrize("entry", ["pub/repo/d.Q4", "PUB/repo/d.q4", "d.Q4.gguf", "d.Q4"])
def test_a_glob_fits_the_model_however_its_entry_names_it(entry):
    """What a glob says of a model holds also where the model's own entry names it by its file."""
    made = catalog(f"{BOX}models: {{'pub/*': {{strip: [user]}}, {entry}: {{strip: [n]}}}}", box=[DEEP])

    assert route(made, "d.Q4.gguf").strip == {"user", "n"}


@pytest.mark.parametrize("client", [ANYONE, Client("k", ("Speech",))])
def test_an_alias_of_two_models_is_the_firsts(client):
    """Where two models, in different letters, are one entry of the file, its alias is the first's."""
    text = f"{TWO}models: {{Speech: {{backend: a, aliases: [stt, '*']}}}}"
    made = catalog(text, a=["speech"], b=[])

    assert [route(made, name, client).key.model for name in ("stt", "Speech")] == ["Speech", "Speech"]
    assert [made.show(name, client, ()).name for name in ("stt", "gpt-4o")] == ["stt", "Speech"]


# Names that nobody knows


ANY = "models: {qwen: {aliases: ['*', gpt]}}"


def any_route(made: Catalog, name: str, client: Client = ANYONE) -> Route:
    return made.resolve(name, client, or_fallback=True)[0]


@pytest.mark.parametrize("name", ["gpt-4o", "claude-3", "*", "qwen-vl", "x" * 1000, "a/gone", "/" * 1000])
def test_a_star_takes_names_that_nobody_knows(name):
    """Whatever nobody knows goes to the model with the alias `*`, for requests alone."""
    made = catalog(TWO + ANY, a=["qwen", "llama"], b=[])

    assert any_route(made, name).key == QWEN
    assert any_route(made, "llama").key == ModelKey("a", "llama")
    assert as_openai(made.show(name, ANYONE, []))["id"] == "qwen"
    assert ids(made) == ["qwen", "gpt", "llama"]
    assert made.key_of(name) is None
    with pytest.raises(ModelNotFound):
        made.resolve(name, ANYONE)


def test_a_star_for_a_variant():
    """A variant may take the names that nobody knows."""
    made = catalog(
        f"{TWO}models: {{v: {{of: qwen, defaults: {{seed: 3}}, aliases: ['*']}}}}", a=["qwen"], b=[]
    )

    assert any_route(made, "gpt-4o").defaults == {"seed": 3}


@pytest.mark.parametrize("name", ["gpt-4o", "qwen", "gpt"])
def test_a_star_is_no_permission(name):
    """A key that may not use the model behind `*` gets what it gets for any other unknown name."""
    with_star, without = (catalog(TWO + text, a=["qwen", "llama"], b=[]) for text in (ANY, ""))
    client = Client("k", ("llama",))

    with pytest.raises(ModelNotFound) as starred:
        any_route(with_star, name, client)
    with pytest.raises(ModelNotFound) as plain:
        any_route(without, name, client)
    assert starred.value.message == plain.value.message


@pytest.mark.parametrize("there", [["qwen", "llama"], ["qwen"]])
def test_a_star_does_not_tell_what_others_have(there):
    """A model that is not for a key is a name that nobody knows, whether it is there or not."""
    made = catalog(TWO + ANY, a=there, b=[])

    assert any_route(made, "llama", Client("k", ("qwen",))).key == QWEN


def test_a_star_does_not_swallow_what_may_come():
    """A name that a backend may have which has not answered yet is 503, as ever."""
    with pytest.raises(BackendDown):
        any_route(catalog(TWO + ANY, a=["qwen"]), "gpt-4o")


def test_a_star_takes_names_beside_a_backend_that_is_off():
    """Whoever is not waited for any more keeps no name from it."""
    made = catalog(TWO + ANY, a=["qwen"])
    made.silent("b", "it is off", is_gone=True)

    assert any_route(made, "gpt-4o").key == QWEN


@pytest.mark.parametrize("text", [ANY + "\nallow_models: [llama]", "models: {gone: {aliases: ['*']}}"])
def test_a_star_of_a_model_that_is_not_there(text):
    """`allow_models` holds for the model behind `*`; one that is gone takes nothing."""
    with pytest.raises(ModelNotFound):
        any_route(catalog(f"{TWO}{text}", a=["qwen", "llama"], b=[]), "gpt-4o")


def test_no_active_model_comes_from_a_star():
    """An active model that is gone is not replaced in silence."""
    made = catalog(TWO + ANY, a=["qwen"], b=[])
    made.choose(Saved(active="gone"))

    with pytest.raises(ModelNotFound, match="the active one is gone"):
        made.resolve(None, ANYONE, or_fallback=True)
