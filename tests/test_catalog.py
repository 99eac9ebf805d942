"""From a model's name to its route: aliases, lists, addresses, and backends that have not answered."""

from collections.abc import Sequence
from typing import Any

import pytest

from dmap.access import Client
from dmap.arbiter import Needs
from dmap.catalog import Catalog, as_openai, v0, v1
from dmap.config import parse
from dmap.errors import BackendDown, BadRequest, DmapError, ModelNotFound
from dmap.models import ModelInfo, ModelKey, Route
from dmap.state import Activation, Durations, Saved

ANYONE = Client("anyone")
TWO = "backends: {a: {kind: openai, url: 'http://a'}, b: {kind: openai, url: 'http://b'}}\n"
STUDIO = "devices: {gpu0: {}}\nbackends: {lm: {kind: lmstudio, url: 'http://a', device: gpu0}}\n"
BOX = "devices: {gpu0: {}}\nbackends: {box: {kind: gguf, path: ., device: gpu0}}\n"


def catalog(text: str, **lists: list[str | ModelInfo]) -> Catalog:
    """A catalog of the configuration *text*, told what each backend has."""
    made = Catalog(parse(text, {}))
    for backend, models in lists.items():
        made.update(backend, [_info(model) for model in models])
    return made


def _info(model: str | ModelInfo) -> ModelInfo:
    return model if isinstance(model, ModelInfo) else ModelInfo(model, resident=True)


def ids(catalog: Catalog, client: Client = ANYONE) -> list[str]:
    """Return the names that *client* sees, in order."""
    return [shown.name for shown in catalog.shown(client, ())]


def listing(catalog: Catalog, residents: Sequence[ModelKey] = ()) -> list[dict[str, Any]]:
    """Return the list that anyone gets."""
    return [as_openai(shown) for shown in catalog.shown(ANYONE, residents)]


class Stumbling(list):
    """A list that cannot be read the first time."""

    stumbles = 1

    def __iter__(self):
        self.stumbles, stumble = 0, self.stumbles
        return iter([1 // (1 - stumble), *super().__iter__()][1:])


def test_a_report_that_failed_is_taken_the_next_time():
    """A bug while a report is taken leaves the catalog as it was, and the same report mends it."""
    made, report = catalog(TWO, b=["n"]), Stumbling([_info("m")])

    with pytest.raises(ZeroDivisionError):
        made.update("a", report)

    assert ids(made) == ["n"]
    made.update("a", report)
    assert ids(made) == ["m", "n"]


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

    assert made.resolve(name, ANYONE)[0] == Route(key)


@pytest.mark.parametrize("name", ["mm", "m ", "a/n", "c/m", "/m", "m\x00", "*"])
def test_another_spelling_is_another_model(name):
    """An unknown name is 404 with the field's name."""
    made = catalog(TWO, a=["m"], b=["n"])

    with pytest.raises(ModelNotFound) as refused:
        made.resolve(name, ANYONE)

    assert (refused.value.status, refused.value.param) == (404, "model")


@pytest.mark.parametrize("name", ["Org/M", "A/ORG/M", "org/m:2", "ORG/M:2"])
def test_one_model_under_many_spellings(name):
    """Other letters, and the other names that its backend has for it, mean the same model."""
    made = catalog(TWO, a=[ModelInfo("org/m", resident=True, names=("org/m:2",))], b=[])

    assert made.resolve(name, ANYONE)[0].key == ModelKey("a", "org/m")


@pytest.mark.parametrize("name", ["org/m", "ORG/M", "org/m@q4_k_m", "org/m@Q8_0", "lm/org/m@q8_0"])
def test_a_quant_means_its_model(name):
    """In LM Studio `key@quant` is a variant of the model, as far as it does not tell which there are."""
    made = catalog(STUDIO, lm=[ModelInfo("org/m", resident=True, any_quant=True)])

    assert made.resolve(name, ANYONE)[0].key == ModelKey("lm", "org/m")


@pytest.mark.parametrize(
    "name",
    [
        "org/m@q8_0",
        "m",
        "org",
        "org/",
        "other/m",
        "org/m-7b",
        "org/m:3",
        "org/m.gguf",
        "rg/m",
        "org/m@",
        "@q4",
    ],
)
def test_no_model_is_answered_for_by_another(name):
    """A name that LM Studio would have some other model answer to, a quant it lacks included, is 404."""
    made = catalog(STUDIO, lm=[ModelInfo("org/m", resident=True, names=("org/m@q4_k_m", "org/m:2"))])

    assert made.resolve("org/m@Q4_K_M", ANYONE)[0].key == ModelKey("lm", "org/m")
    with pytest.raises(ModelNotFound):
        made.resolve(name, ANYONE)


def test_a_quant_means_nothing_elsewhere():
    """A server other than LM Studio knows no variants of a model."""
    with pytest.raises(ModelNotFound):
        catalog(TWO, a=["m"], b=[]).resolve("m@q4", ANYONE)


def test_letters_tell_two_models_apart_where_both_are():
    """A name in its own letters goes before one in others."""
    made = catalog(TWO, a=["m", "M"])

    assert [made.resolve(name, ANYONE)[0].key.model for name in ("m", "M")] == ["m", "M"]


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
    force: {topK: 5}
    strip: [logitBias, user]
    permit: [image_url]
"""
    )
    made = catalog(text, box=[ModelInfo("m", resident=False, size_bytes=5, parallel=4)])

    assert made.resolve("gpt", ANYONE)[0] == Route(
        key=ModelKey("box", "m"),
        device="gpu0",
        needs=Needs(6 * 2**30, parallel=2, pinned=True),
        size_given=True,
        load={"context_length": 8192},
        context_length=8192,
        force={"top_k": 5},
        strip=frozenset({"logit_bias", "user"}),
        defaults={"temperature": 0.1, "max_tokens": 100, "stop": ("END",)},
        permit=frozenset({"image_url"}),
    )


@pytest.mark.parametrize("name", ["org/m@q4_k_m", "Org/M@Q4_K_M"])
def test_the_file_may_name_a_quant(name):
    """What the file says of one of the variants that LM Studio lists is said of its model."""
    text = STUDIO + f"models: {{'{name}': {{aliases: [gpt], load: {{context_length: 8192}}}}}}"
    made = catalog(text, lm=[ModelInfo("org/m", resident=False, names=("org/m@q4_k_m", "org/m:2"))])

    assert made.resolve("gpt", ANYONE)[0].key == ModelKey("lm", "org/m")
    assert made.resolve("org/m", ANYONE)[0].load == {"context_length": 8192}


@pytest.mark.parametrize("other", ["org/m@q4_k_m", "org/m@q8_0", "org/m:2"])
def test_a_models_own_name_goes_before_its_quant(other):
    """What the file says of the key itself holds, whatever it says of a variant or an instance."""
    text = (
        STUDIO + f"models: {{'{other}': {{load: {{num_experts: 1}}}}, org/m: {{load: {{num_experts: 2}}}}}}"
    )
    made = catalog(text, lm=[ModelInfo("org/m", resident=False, names=("org/m@q4_k_m", "org/m:2"))])

    assert made.resolve("org/m", ANYONE)[0].load == {"num_experts": 2}


@pytest.mark.parametrize(
    ("gpu", "load"),
    [
        ("{layers: 9}", {"gpu_layers": 9}),
        ("{ratio: 1}", {"gpu": 1}),
        ("{ratio: off, layers: 9}", {"gpu": "off", "gpu_layers": 9}),
    ],
)
def test_a_load_of_some_layers(gpu, load):
    """Of LM Studio's `gpu`, `layers` may stand without `ratio`."""
    made = catalog(BOX + f"models: {{m: {{load: {{gpu: {gpu}}}}}}}", box=["m"])

    assert made.resolve("m", ANYONE)[0].load == load


def test_lists_of_models_that_fit_together():
    """A model is on the lists of its device, by any of its names; other devices have none of it."""
    lists = "gpu0: {together: [[M, alias], [box/m, n], [n, x]]}, gpu1: {together: [[m, n]]}"
    text = BOX.replace("gpu0: {}", lists) + "models: {k: {aliases: [alias]}}"

    made = catalog(text, box=["m", "k", "n", "o"])

    on = {name: made.resolve(name, ANYONE)[0].needs.together for name in ("m", "k", "n", "o")}
    assert on == {"m": {"M, alias", "box/m, n"}, "k": {"M, alias"}, "n": {"box/m, n", "n, x"}, "o": set()}


def test_what_runs_at_once_is_the_least_that_is_said():
    """A model's `parallel` never goes over its backend's: the rest would wait where nobody sees it."""
    made = catalog(BOX + "models: {m: {parallel: 9}}", box=[ModelInfo("m", resident=False, parallel=4)])

    assert made.resolve("m", ANYONE)[0].needs.parallel == 4


def test_a_route_has_what_the_backend_says():
    """Where the file is silent, the backend's own word counts."""
    made = catalog(BOX, box=[ModelInfo("e", resident=False, size_bytes=5, parallel=4, embedding=True)])

    assert made.resolve("e", ANYONE)[0] == Route(
        ModelKey("box", "e"), device="gpu0", needs=Needs(5, parallel=4, embedding=True)
    )


def test_the_backend_of_a_model_can_be_chosen():
    """A model that two backends have is the one of the backend that the file names."""
    made = catalog(TWO + "models: {both: {backend: b}}", a=["both"], b=["both"])

    assert made.resolve("both", ANYONE)[0].key == ModelKey("b", "both")


def test_a_model_of_the_file_need_not_be_listed():
    """A server that cannot switch need not list a model to answer for it."""
    made = catalog(TWO + "models: {hidden: {backend: a, aliases: [h]}}", a=[])

    assert made.resolve("h", ANYONE)[0].key == ModelKey("a", "hidden")
    assert ids(made) == ["hidden", "h"]


def test_a_model_of_the_file_that_is_listed():
    """What a server that cannot switch says of a model counts, also where the file names its backend."""
    made = catalog(
        TWO + "models: {m: {backend: a, aliases: [x]}}", a=[ModelInfo("m", resident=True, context_length=512)]
    )

    assert made.resolve("x", ANYONE)[0].context_length == 512
    assert ids(made) == ["m", "x"]


@pytest.mark.parametrize("order", [["gpt", "m"], ["m", "gpt"]])
def test_an_alias_goes_before_a_listed_model(order):
    """The file's alias means its model, even if a backend has a model of that name, and is listed once."""
    made = catalog(TWO + "models: {m: {aliases: [gpt]}}", a=order, b=[])

    assert made.resolve("gpt", ANYONE)[0].key == ModelKey("a", "m")
    assert made.resolve("a/gpt", ANYONE)[0].key == ModelKey("a", "gpt")
    assert sorted(ids(made)) == ["gpt", "m"]


@pytest.mark.parametrize(
    ("load", "told", "context"),
    [("{context_length: 512}", 4096, 512), ("{}", 4096, 4096), ("{}", None, None)],
)
def test_the_context_of_a_model(load, told, context):
    """The configured context goes before what the backend says; nobody may know it."""
    made = catalog(
        BOX + f"models: {{m: {{load: {load}}}}}", box=[ModelInfo("m", resident=False, context_length=told)]
    )

    assert made.resolve("m", ANYONE)[0].context_length == context


# What was set over the admin API


def test_an_activation_goes_before_the_file():
    """What was set for a model goes before the file's word on it, which goes before that on all models."""
    made = catalog(
        "devices: {g: {}}\nbackends: {box: {kind: lmstudio, url: 'http://h', device: g}}\n"
        + "defaults: {temperature: 0.1, top_p: 0.1, top_k: 1}\n"
        + "models: {m: {defaults: {temperature: 0.2, top_p: 0.2}, load: {num_experts: 2}}}",
        box=["m", "n"],
    )

    made.choose(Saved(models={"m": Activation({"temperature": 0.3}, {"context_length": 1024})}))

    (route,) = made.resolve("m", ANYONE)
    assert route.defaults == {"temperature": 0.3, "top_p": 0.2, "top_k": 1}
    assert (route.load, route.context_length) == ({"context_length": 1024, "num_experts": 2}, 1024)
    assert made.resolve("n", ANYONE)[0].defaults == {"temperature": 0.1, "top_p": 0.1, "top_k": 1}


@pytest.mark.parametrize(
    ("name", "there"),
    [("m", {"seed": 1}), ("gpt", {"seed": 1}), ("M", {"seed": 1}), ("a/m", {}), ("m:2", {})],
)
def test_an_activation_finds_its_model_by_any_name(name, there):
    """
    What was set for a model under any of its names holds for all of them, until something else is set.

    It holds for all copies, unless the name means one of them.
    """
    text = TWO + "models: {m: {aliases: [gpt]}}"
    made = catalog(text, a=[ModelInfo("m", resident=True, names=("m:2",))], b=["m"])

    made.choose(Saved(models={name: Activation({"seed": 1})}))
    set_for = [made.resolve(each, ANYONE)[0].defaults for each in ("gpt", "a/m", "b/m")]
    made.choose(Saved())

    assert set_for == [{"seed": 1}, {"seed": 1}, there]
    assert made.resolve("m", ANYONE)[0].defaults == {}


def test_what_was_set_twice_is_put_together():
    """Of what was set for one model under two names, the later wins where they disagree."""
    made = catalog(TWO, a=["m"], b=[])

    made.choose(Saved(models={"m": Activation({"seed": 1, "top_k": 1}), "a/m": Activation({"seed": 2})}))

    assert made.resolve("m", ANYONE)[0].defaults == {"seed": 2, "top_k": 1}


def test_what_was_set_for_a_model_that_is_gone_waits_for_it():
    """What was set for a model that no backend lists holds again when one does."""
    made = Catalog(parse(TWO, {}))
    made.choose(Saved(active="m", models={"m": Activation({"seed": 1})}))

    made.update("a", [ModelInfo("m", resident=True)])

    assert made.resolve(None, ANYONE)[0].defaults == {"seed": 1}


def test_a_reload_keeps_what_was_set():
    """Under another configuration what was set, and what the backends have, is as before."""
    made = catalog(TWO, a=["m"], b=["n"])
    made.choose(Saved(active="m", models={"m": Activation({"seed": 1})}))

    made.configure(parse(TWO + "defaults: {top_k: 1}", {}))

    assert made.active == "m"
    assert made.resolve(None, ANYONE)[0].defaults == {"top_k": 1, "seed": 1}
    assert ids(made) == ["m", "n"]


# The active model


@pytest.mark.parametrize("name", ["m", "gpt", "M", "a/m"])
def test_no_name_means_the_active_model(name):
    """A request without a model goes to the active one, by whatever name that was activated."""
    made = catalog(TWO + "models: {m: {aliases: [gpt]}}", a=["m", "n"], b=[])

    made.choose(Saved(active=name))

    assert made.resolve(None, ANYONE)[0].key == ModelKey("a", "m")
    assert made.active == "m"
    assert [listed["id"] for listed in listing(made) if listed.get("active")] == ["m", "gpt"]


def test_no_name_and_none_active():
    """With no model named and none active the client is told what to do, and of some models it may use."""
    made = catalog(TWO, a=["secret", "q1", "q2", "q3", "q4"], b=[])

    with pytest.raises(BadRequest) as refused:
        made.resolve(None, Client("k", ("q*",)))

    assert (refused.value.status, refused.value.param) == (400, "model")
    assert "('q1', 'q2', 'q3', ...)" in refused.value.message
    assert "POST /admin/models/activate" in refused.value.message
    assert made.active is None


def test_no_name_none_active_and_none_there():
    """That no model is named is told also where there is none to name."""
    with pytest.raises(BadRequest, match="none is active"):
        catalog(TWO, a=[], b=[]).resolve(None, ANYONE)


def test_an_active_model_that_is_gone():
    """An active model that no backend lists any more is 404, and the message says that it is that."""
    made = catalog(TWO, a=["m"], b=[])
    made.choose(Saved(active="gone"))

    with pytest.raises(ModelNotFound, match="the active one is gone"):
        made.resolve(None, ANYONE)

    assert made.active == "gone"


def test_an_active_model_of_a_silent_backend():
    """An active model that a backend may have which has not answered yet is 503, to be tried again."""
    made = catalog(TWO, a=["m"])
    made.choose(Saved(active="n"))

    with pytest.raises(BackendDown):
        made.resolve(None, ANYONE)


def test_the_active_model_is_not_for_everyone():
    """A key gets the active model only if it may use it."""
    made = catalog(TWO, a=["m"], b=[])
    made.choose(Saved(active="m"))

    with pytest.raises(ModelNotFound, match="the active one is gone, or is not for this client"):
        made.resolve(None, Client("k", ("q*",)))


def test_an_active_model_that_the_file_no_longer_allows():
    """`allow_models` holds for the active model too."""
    made = catalog(TWO + "allow_models: [n]", a=["m", "n"], b=[])
    made.choose(Saved(active="m", models={"m": Activation({"seed": 1})}))

    with pytest.raises(ModelNotFound):
        made.resolve(None, ANYONE)


@pytest.mark.parametrize(("name", "key"), [("M", ModelKey("a", "m")), ("gone", None)])
def test_whose_name_it_is(name, key):
    """The catalog tells which model a name means, whoever asks."""
    assert catalog(TWO, a=["m"], b=[]).key_of(name) == key


def test_which_models_requests_lead_to():
    """A model that its backend no longer lists is one that no request leads to."""
    made = catalog(TWO, a=["m"], b=["m"])

    made.update("b", [])

    assert made.route_of(ModelKey("a", "m")) == Route(ModelKey("a", "m"))
    assert made.route_of(ModelKey("b", "m")) is None


# What may be used


@pytest.mark.parametrize(
    ("globs", "name"),
    [(("qwen*",), "qwen"), (("gpt",), "qwen"), (("qwen",), "gpt"), (("qwen",), "a/qwen"), (("*",), "qwen")],
)
def test_a_key_may_use_its_models(globs, name):
    """A key that may use a model by any of its names may use it by all of them."""
    made = catalog(TWO + "models: {qwen: {aliases: [gpt]}}", a=["qwen"], b=[])

    assert made.resolve(name, Client("k", globs))[0].key == ModelKey("a", "qwen")


def told(made, name, client):
    """Return what a client is told of a model, by a request and by the look at one."""
    said = []
    for ask in (made.resolve, lambda name, client: made.show(name, client, ())):
        try:
            said.append(str(ask(name, client)))
        except DmapError as error:
            said.append((error.status, error.code, error.message))
    return said


@pytest.mark.parametrize("name", ["llama", "a/llama", "l", "gone"])
@pytest.mark.parametrize("globs", [("qwen*",), ("a/*",), ("*lama",), ()])
@pytest.mark.parametrize("backends", [{"b": []}, {}], ids=["all answer", "one is silent"])
def test_a_key_cannot_tell_what_others_have(name, globs, backends):
    """A model that is not the key's is answered as one that does not exist, whatever it is called by."""
    text = TWO + "models: {llama: {aliases: [l]}}"
    client = Client("k", globs)

    there = told(catalog(text, a=["qwen", "llama"], **backends), name, client)
    not_there = told(catalog(text, a=["qwen"], **backends), name, client)

    assert there == not_there or client.may_use("llama", "l")


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


def refused(made, name, client=ANYONE):
    """Return what a client is told that asks for *name* in vain."""
    with pytest.raises(DmapError) as error:
        made.resolve(name, client)
    return error.value.status, error.value.message


NOT_ASKED = "; the backend 'b' cannot be asked: there is no answer from it"


@pytest.mark.parametrize("name", ["qwen3-8", "Qwen_3-8B ", "qwn3-8b"])
def test_a_typo_beside_a_silent_backend(name):
    """A typo is no model that may come: it is 404 at once, with what was meant and who could not be asked."""
    status, message = refused(catalog(TWO, a=["qwen3-8b"]), name)

    assert (status, message) == (
        404,
        f"the model {name!r} does not exist, or is not for this client; "
        f"did you mean 'qwen3-8b'? GET /v1/models lists those that are{NOT_ASKED}",
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [("gpt-4o-mnii", "gpt-4o-mini"), ("qwen3-8b:carful", "qwen3-8b:careful"), ("a/qwen3-8", "a/qwen3-8b")],
)
def test_a_typo_of_another_name(name, meant):
    """A typo of an alias, of a variant or of backend/model is one too."""
    models = "models: {'qwen3-8b': {aliases: [gpt-4o-mini]}, 'qwen3-8b:careful': {of: qwen3-8b}}"

    status, message = refused(catalog(TWO + models, a=["qwen3-8b"]), name)

    assert (status, f"; did you mean {meant!r}? " in message) == (404, True)


@pytest.mark.parametrize("name", ["qwen3-4b", "qwen3-8b-q4", "llama-3", "b/qwen3-8"])
def test_no_typo(name):
    """Another number is another model, and so is what is asked of the silent backend itself."""
    assert refused(catalog(TWO, a=["qwen3-8b", "llava-3"]), name)[0] == 503


def test_a_typo_of_what_is_not_for_this_client():
    """Nobody is told what others may use."""
    made = catalog(TWO, a=["qwen3-8b"], b=[])

    assert "did you mean" not in refused(made, "qwen3-8", Client("k", ("qwen3-8", "llama")))[1]


def test_an_unknown_name_beside_a_backend_that_died():
    """What a backend has is known from its last answer, so nobody is told to wait for another name."""
    made = catalog(TWO, a=["m"], b=["n"])
    made.silent("b", "it hung up")

    status, message = refused(made, "other")

    assert (status, NOT_ASKED in message) == (404, True)
    made.update("b", [_info("n")])
    assert NOT_ASKED not in refused(made, "other")[1]


GONE = {
    "models: {m: {aliases: [other]}}": Saved(),
    "models: {'oth*': {backend: b}}": Saved(),
    "": Saved(active="other"),
    " ": Saved(models={"other": Activation({"seed": 1})}),
    "  ": Saved(durations={"gpu0": Durations({"b/other": 2.0})}),
}


@pytest.mark.parametrize(("text", "saved"), GONE.items())
def test_a_name_that_was_heard_of(text, saved):
    """What the file or an earlier start knows comes with its backend, however long that takes."""
    made = catalog(TWO + text, a=["qwen"])
    made.choose(saved)
    made.silent("b", "it is off", is_gone=True)

    assert refused(made, "other") == (503, "'other' is not known yet: it is off")


def test_a_backend_that_is_off_for_weeks():
    """Nobody is told to come back for a name that only a backend may have which counts as gone."""
    made = catalog(TWO, a=["qwen"])
    made.silent("b", "it is off", is_gone=True)

    status, message = refused(made, "other")

    assert (status, NOT_ASKED in message) == (404, True)


@pytest.mark.parametrize("name", ["llama", "b/llama", "a/m"])
def test_what_a_silent_backend_may_not_have_does_not_exist(name):
    """A model that is not allowed, or is asked of a backend that has answered, is 404 all the same."""
    made = catalog(TWO + "allow_models: ['q*', m]", a=["q"])

    with pytest.raises(ModelNotFound):
        made.resolve(name, ANYONE)


def test_a_backend_that_fell_silent_keeps_its_models():
    """What a backend last said stays known while it does not answer."""
    made = catalog(TWO, a=["m"], b=["n"])

    made.silent("a", "it hung up")

    assert made.resolve("m", ANYONE)[0].key == ModelKey("a", "m")
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

    model, alias = listing(made)

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

    assert [model["resident"] for model in listing(made, loaded)] == [resident]


# One of the list


@pytest.mark.parametrize(
    ("name", "shown"),
    [("both", "both"), ("BOTH", "both"), ("a/both", "both"), ("b/both", "b/both"), ("B/Both", "b/both")],
)
def test_one_of_two_with_the_same_name(name, shown):
    """A model whose name means another one is shown under its backend's name and its own."""
    made = catalog(TWO, a=["both"], b=["both"])

    assert as_openai(made.show(name, ANYONE, []))["id"] == shown


def test_one_is_shown_as_it_is_listed():
    """A model by itself is described as in the list, under an alias, too."""
    made = catalog(TWO + "models: {m: {aliases: [gpt]}}", a=["m"], b=[])
    made.choose(Saved(active="m"))

    assert [as_openai(made.show(name, ANYONE, [])) for name in ("m", "gpt")] == listing(made)


def test_one_that_is_not_for_this_client():
    """A model that a client may not use is not told from one that there is not, or may be."""
    made = catalog(TWO, a=["llama"])

    with pytest.raises(ModelNotFound) as unknown:
        made.show("lama", Client("k", ("q*",)), [])
    with pytest.raises(ModelNotFound) as forbidden:
        made.show("llama", Client("k", ("q*",)), [])

    assert str(forbidden.value.body()) == str(unknown.value.body()).replace("lama", "llama")


# LM Studio's lists


OWN = {"type": "llm", "publisher": "p", "key": "m", "display_name": "M", "quantization": None}
OWN |= {"size_bytes": 7, "params_string": "1B", "max_context_length": 131072, "format": "mlx"}
OWN |= {"more": [1.5, {"x": None}]}


def test_what_only_the_server_knows_is_shown():
    """A model is shown in its server's own words, keys that nobody knows included."""
    made = catalog(STUDIO, lm=[ModelInfo("m", resident=False, v1=OWN)])

    assert v1(made.show("m", ANYONE, [])) == OWN | {"loaded_instances": []}
    assert v0(made.show("m", ANYONE, [])) == {
        "id": "m",
        "object": "model",
        "type": "llm",
        "publisher": "p",
        "arch": "unknown",
        "compatibility_type": "mlx",
        "quantization": "unknown",
        "state": "not-loaded",
        "max_context_length": 131072,
    }


def test_names_of_other_models_are_not_shown():
    """Of variants and instances only those are shown whose names mean this model."""
    named = ("m@q4", "m:2", "secret", "gpt")
    own = OWN | {
        "variants": ["m@q4", "secret", "nobody", "gpt", 5],
        "selected_variant": "secret",
        "loaded_instances": [{"id": "secret"}, {"id": "m:2", "config": {"context_length": 9}}, {"id": "gpt"}],
    }
    text = STUDIO + "models: {secret: {aliases: [gpt]}}"
    made = catalog(text, lm=["secret", ModelInfo("m", resident=True, names=named, v1=own)])

    shown = v1(made.show("m", Client("k", ("m",)), [ModelKey("lm", "m")]))

    assert shown["variants"] == ["m@q4"]
    assert shown["loaded_instances"] == [{"id": "m:2", "config": {"context_length": 9}}]
    assert "selected_variant" not in shown


def test_a_resident_that_its_server_does_not_list_yet():
    """What the arbiter has loaded is shown as loaded, with the context that it was given."""
    made = catalog(STUDIO, lm=[ModelInfo("m", resident=False, context_length=4096, v1=OWN)])

    shown = made.show("m", ANYONE, [ModelKey("lm", "m")])

    assert v1(shown)["loaded_instances"] == [{"id": "m", "config": {"context_length": 4096}}]
    assert (v0(shown)["state"], v0(shown)["loaded_context_length"]) == ("loaded", 4096)


def test_what_a_server_of_another_kind_tells():
    """What a server tells in part stands in LM Studio's fields, the rest as what nobody knows."""
    told = {"max_context_length": 32768, "format": "gguf"}
    info = ModelInfo("e", resident=False, size_bytes=5, context_length=512, embedding=True, v1=told)
    made = catalog(BOX, box=[info])

    shown = made.show("e", ANYONE, [ModelKey("box", "e")])

    assert v1(shown) == {
        "type": "embedding",
        "publisher": "box",
        "key": "e",
        "display_name": "e",
        "quantization": None,
        "size_bytes": 5,
        "params_string": None,
        "loaded_instances": [{"id": "e", "config": {"context_length": 512}}],
        "max_context_length": 32768,
        "format": "gguf",
    }
    assert v0(shown) == {
        "id": "e",
        "object": "model",
        "type": "embeddings",
        "publisher": "box",
        "arch": "unknown",
        "compatibility_type": "gguf",
        "quantization": "unknown",
        "state": "loaded",
        "max_context_length": 32768,
        "loaded_context_length": 512,
    }


@pytest.mark.parametrize("odd", ["x", 5, None, [None], {"x": 1}, True, 1.5])
def test_a_record_that_makes_no_sense(odd):
    """Whatever a server puts into the fields of its lists, the model is listed, and nothing else."""
    names = ("variants", "selected_variant", "loaded_instances", "capabilities", "quantization", "format")
    older = {"quantization": odd, "compatibility_type": odd, "type": odd, "arch": odd}
    native = dict.fromkeys(names, odd)
    told = [ModelInfo("m", resident=True, v1=native), ModelInfo("n", resident=True, v0=older)]
    made = catalog(STUDIO, lm=told)

    shown = [made.show(name, ANYONE, [ModelKey("lm", name)]) for name in ("m", "n")]

    assert [v1(one)["key"] for one in shown] == [v0(one)["id"] for one in shown] == ["m", "n"]
    assert [len(v1(one)["loaded_instances"]) for one in shown] == [1, 1]


def keys(made: Catalog, name: str) -> list[str]:
    """Return where requests for *name* may go, in order."""
    return [str(route.key) for route in made.resolve(name, ANYONE)]


QUANT = {"quantization": {"name": "Q4_K_M"}}
STUDIOS = (
    "devices: {gpu0: {}, gpu1: {}}\n"
    "backends: {a: {kind: lmstudio, url: 'http://a', device: gpu0},"
    " b: {kind: lmstudio, url: 'http://b', device: gpu1}}\n"
)


class TestCopies:
    def test_a_name_means_all_copies(self):
        """The model of one name on two servers of one kind is one model, by whatever name it is asked."""
        made = catalog(STUDIOS + "models: {m: {aliases: [gpt]}, v: {of: m}}", a=["m"], b=["n", "m"])

        assert keys(made, "m") == keys(made, "gpt") == keys(made, "M") == keys(made, "v") == ["a/m", "b/m"]
        assert keys(made, "n") == ["b/n"]

    def test_an_address_means_one(self):
        """So whoever wants that very place gets it."""
        made = catalog(STUDIOS, a=["m"], b=["m"])

        assert keys(made, "a/m") == ["a/m"]
        assert keys(made, "b/m") == ["b/m"]

    def test_the_list_has_each_name_once(self):
        """It is resident if any copy is."""
        made = catalog(STUDIOS, a=["m"], b=["m"])

        (listed,) = listing(made, [ModelKey("b", "m")])

        assert (listed["id"], listed["resident"]) == ("m", True)

    @pytest.mark.parametrize("loaded", [set(), {"a"}, {"b"}, {"a", "b"}], ids=sorted)
    def test_it_is_known_at_which_nodes_it_is_loaded(self, loaded):
        """A node says itself what it has loaded; nobody else knows, for it is no device of this dmap."""
        url = "{url: 'http://127.0.0.1:9', api_key: k}"
        told = {node: [ModelInfo("m", resident=node in loaded)] for node in ("a", "b")}
        made = catalog(f"nodes: {{a: {url}, b: {url}}}", **told)

        (shown,) = made.shown(ANYONE, [])

        assert shown.residents == {ModelKey(node, "m") for node in loaded}
        assert shown.resident is bool(loaded)

    @pytest.mark.parametrize(
        ("there", "reason"),
        [
            ({"v1": {"quantization": {"name": "Q8_0"}}}, "quantization 'Q8_0', not 'Q4_K_M'"),
            ({"v1": {**QUANT, "size_bytes": 7}}, "bytes 7, not 5"),
            ({"embedding": True}, "use 'embeddings', not 'answers'"),
            ({"file": "x/m-Q8_0.gguf"}, "file 'm-q8_0.gguf', not 'm-q4_k_m.gguf'"),
        ],
    )
    def test_what_differs_is_no_copy(self, there, reason):
        """The first of the file has the name, the other one its address; somebody may be told why."""
        one = ModelInfo("m", resident=True, v1={**QUANT, "size_bytes": 5}, file="m-Q4_K_M.gguf")
        made = catalog(STUDIOS, a=[one], b=[ModelInfo("m", resident=True, **there)])

        assert keys(made, "m") == ["a/m"]
        assert keys(made, "b/m") == ["b/m"]
        assert [(str(entry.key), why) for entry, why in made.differing.items()] == [("b/m", reason)]

    def test_what_nobody_tells_contradicts_nothing(self):
        """A server that says less of its model has a copy all the same; how it is loaded is no difference."""
        one = ModelInfo("m", resident=True, v1=QUANT, file="deep/m.gguf", context_length=4096)
        made = catalog(STUDIOS, a=[one], b=[ModelInfo("m", resident=False, context_length=8192)])

        assert keys(made, "m") == ["a/m", "b/m"]

    def test_servers_of_another_kind_have_no_copies(self):
        """A request must not go out of the house because somebody there has a model of that name."""
        text = STUDIOS.replace(
            "b: {kind: lmstudio, url: 'http://b', device: gpu1}", "b: {kind: openai, url: 'http://b'}"
        )
        made = catalog(text, a=["m"], b=["m"])

        assert keys(made, "m") == ["a/m"]
        assert made.differing == {}

    def test_a_glob_places_a_family(self):
        """What is said of a family to be on one backend holds for each model of it."""
        made = catalog(STUDIOS + 'models: {"qwen/*": {backend: b}}', a=["qwen/x", "m"], b=["qwen/x", "m"])

        assert keys(made, "qwen/x") == ["b/qwen/x"]
        assert keys(made, "m") == ["a/m", "b/m"]

    def test_each_device_is_preloaded_with_its_own(self):
        """The name on a device's list means the copy there."""
        text = STUDIOS.replace("gpu1: {}", "gpu1: {preload: [m]}")
        made = catalog(text, a=["m"], b=["m"])

        assert list(made.preloads("gpu1")) == [ModelKey("b", "m")]
        assert list(made.preloads("gpu0")) == []

    def test_a_name_of_one_server_only_means_its_copy(self):
        """An instance or a quantization that one server alone has is there only."""
        made = catalog(STUDIOS, a=["m"], b=[ModelInfo("m", resident=True, names=("m@q8",))])

        assert keys(made, "m@q8") == ["b/m"]
