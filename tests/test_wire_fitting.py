"""A request is changed for its model and its server in what must be changed, and in nothing else."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from dmap.config import ConfigProblem, parse
from dmap.errors import BadRequest
from dmap.kinds import KINDS, ROUTES
from dmap.wire.body import Call, peek
from dmap.wire.fitting import changes, fit
from dmap.wire.parameters import camel, understood
from dmap.wire.routes import Wording

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
MESSAGES, NATIVE = "/v1/messages", "/api/v1/chat"
EVERYTHING = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.1,
    "max_tokens": 5,
    "stop": ("x",),
    "seed": 7,
    "repeat_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.3,
    "reasoning_effort": "low",
    "stream": True,
}


def wording(path: str, kind: str) -> Wording:
    return KINDS[kind].wording(ROUTES[path])


def fitted(body: bytes, path: str = CHAT, kind: str = "openai", **options: Any) -> bytes:
    """Fit *body* to its own model; the same object if nothing had to be changed."""
    call = peek(body)
    made = fit(call, wording(path, kind), model=call.model or "m", **options)
    return body if made is call else made.written()


def of(**fields: Any) -> bytes:
    """Write the body of a request for the model `m`, as dmap would."""
    return json.dumps({"model": "m", **fields}, separators=(",", ":")).encode()


# Defaults


@pytest.mark.parametrize(
    ("body", "defaults"),
    [
        (b'{ "model":"m" }', {}),
        (b'{"model": "m", "temperature": 0}', {"temperature": 0.7}),
        (b'{"model": "m", "max_completion_tokens": 9}', {"max_tokens": 5}),
        (b'{"model": "m", "n_predict": 9}', {"max_tokens": 5}),
        (b'{"model": "m", "repetition_penalty": 1}', {"repeat_penalty": 5}),
        (b'{"model": "m", "reasoning": {"effort": "low"}}', {"reasoning_effort": "high"}),
        (b'{"model": "m", "stop": []}', {"stop": "x"}),
        (b'{"model": "m", "stream": false}', {"stream": True}),
        (b'{"model": "m", "topP": null, "max_tokens": null}', {}),
        (b'{"model": "m", "temperature": "hot", "top_p": 3}', {}),
    ],
)
def test_the_same_object_goes_on(body, defaults):
    """A body that lacks nothing goes on as the very same object, with whatever its client wrote."""
    assert fitted(body, defaults=defaults) is body


@pytest.mark.parametrize(
    ("path", "kind", "added"),
    [
        (
            CHAT,
            "openai",
            b'"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,"max_tokens":5,"stop":["x"],"seed":7,'
            b'"repeat_penalty":1.1,"repetition_penalty":1.1,"presence_penalty":0.2,"frequency_penalty":0.3,'
            b'"reasoning_effort":"low","stream":true',
        ),
        (
            CHAT,
            "lmstudio",
            b'"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,"max_tokens":5,"stop":["x"],"seed":7,'
            b'"repeat_penalty":1.1,"presence_penalty":0.2,"frequency_penalty":0.3,'
            b'"reasoning_effort":"low","stream":true',
        ),
        (
            TEXT,
            "gguf",
            b'"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,"max_tokens":5,"stop":["x"],"seed":7,'
            b'"repeat_penalty":1.1,"presence_penalty":0.2,"frequency_penalty":0.3,"stream":true',
        ),
        (
            RESPONSES,
            "openai",
            b'"temperature":0.5,"top_p":0.9,"max_output_tokens":5,"reasoning":{"effort":"low"},"stream":true',
        ),
        (
            RESPONSES,
            "gguf",
            b'"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,"max_output_tokens":5,"stop":["x"],'
            b'"seed":7,"repeat_penalty":1.1,"presence_penalty":0.2,"frequency_penalty":0.3,'
            b'"reasoning":{"effort":"low"},"stream":true',
        ),
        (
            MESSAGES,
            "lmstudio",
            b'"temperature":0.5,"top_p":0.9,"top_k":40,"max_tokens":5,"stop_sequences":["x"],"stream":true',
        ),
        (
            NATIVE,
            "lmstudio",
            b'"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.1,"max_output_tokens":5,'
            b'"repeat_penalty":1.1,"reasoning":"low","stream":true',
        ),
    ],
)
def test_each_server_has_its_words(path, kind, added):
    """A default is spelled, and shaped, as the route of that server has it, or not sent."""
    assert fitted(b'{"model":"m"}', path, kind, defaults=EVERYTHING) == b'{"model":"m",' + added + b"}"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/audio/speech",
        "/v1/images/generations",
        "/v1/messages/count_tokens",
        "/v1/responses/input_tokens",
        "/api/v0/embeddings",
    ],
)
def test_what_generates_no_text_has_no_parameters(path):
    """Nothing is put into, forced into or translated in a request for embeddings, ranking, sound, images."""
    body = b'{"model":"m","seed":1,"maxTokens":"x"}'

    assert fitted(body, path, defaults=EVERYTHING, force=EVERYTHING) is body


@pytest.mark.parametrize(
    ("path", "body", "wanted"),
    [
        (CHAT, b'{"model":"m"}', b'{"model":"m","max_tokens":5}'),
        (CHAT, b'{"max_tokens":null,"model":"m"}', b'{"max_tokens":5,"model":"m"}'),
        (CHAT, b'{"model":"m","max_completion_tokens":null}', b'{"model":"m","max_tokens":5}'),
        (CHAT, b'{"model":"m","maxTokens":null}', b'{"model":"m","max_tokens":5}'),
        (RESPONSES, b'{"model":"m","max_tokens": null}', b'{"model":"m","max_output_tokens":5}'),
    ],
)
def test_null_counts_as_absent(path, body, wanted):
    """A default fills in what is absent or, under any of its words, null, and the null is gone."""
    assert fitted(body, path, defaults={"max_tokens": 5}) == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (b'{"summary": "auto"}', b'{"summary":"auto","effort":"low"}'),
        (b'{"effort": null}', b'{"effort":"low"}'),
        (b"null", b'{"effort":"low"}'),
    ],
)
def test_an_effort_joins_what_else_is_said_of_reasoning(given, wanted):
    """In OpenAI's Responses the effort is a member of `reasoning`, whose others stay."""
    body = b'{"model":"m","reasoning":%b}' % given

    made = fitted(body, RESPONSES, defaults={"reasoning_effort": "low"})

    assert made == b'{"model":"m","reasoning":%b}' % wanted


@pytest.mark.parametrize(("effort", "wanted"), [("none", "off"), ("minimal", "low"), ("high", "high")])
def test_lmstudio_has_its_own_efforts(effort, wanted):
    """OpenAI's efforts are said in the words of LM Studio's own route."""
    assert fitted(of(reasoning_effort=effort), NATIVE, "lmstudio") == of(reasoning=wanted)


@pytest.mark.parametrize(
    ("body", "default", "stream"),
    [
        (b'{"model":"m"}', True, True),
        (b'{"model":"m","stream":null}', True, True),
        (b'{"model":"m","stream":false}', True, False),
        (b'{"model":"m","stream":true}', False, True),
        (b'{"model":"m"}', False, False),
    ],
)
def test_a_default_decides_whether_it_streams(body, default, stream):
    """A request that does not say whether it streams does so by default."""
    made = fit(peek(body), wording(CHAT, "openai"), model="m", defaults={"stream": default})

    assert made.stream is stream


# Words of others


@pytest.mark.parametrize(
    ("path", "kind", "given", "wanted"),
    [
        (CHAT, "openai", {"maxTokens": 5}, {"max_tokens": 5}),
        (CHAT, "openai", {"topP": 0.5, "topK": 4}, {"top_p": 0.5, "top_k": 4}),
        (CHAT, "openai", {"stopStrings": ["a", "b"]}, {"stop": ["a", "b"]}),
        (CHAT, "openai", {"stopStrings": "a"}, {"stop": ["a"]}),
        (CHAT, "openai", {"repeatPenalty": 1}, {"repeat_penalty": 1.0, "repetition_penalty": 1.0}),
        (CHAT, "lmstudio", {"repeatPenalty": 1.5}, {"repeat_penalty": 1.5}),
        (CHAT, "lmstudio", {"max_completion_tokens": 5}, {"max_tokens": 5}),
        (TEXT, "openai", {"max_completion_tokens": 5}, {"max_tokens": 5}),
        (RESPONSES, "openai", {"maxTokens": 5}, {"max_output_tokens": 5}),
        (RESPONSES, "openai", {"max_tokens": 5}, {"max_output_tokens": 5}),
        (RESPONSES, "openai", {"reasoningEffort": "low"}, {"reasoning": {"effort": "low"}}),
        (MESSAGES, "gguf", {"stopStrings": "a"}, {"stop_sequences": ["a"]}),
        (MESSAGES, "gguf", {"stop": "a"}, {"stop_sequences": ["a"]}),
        (NATIVE, "lmstudio", {"maxTokens": 5}, {"max_output_tokens": 5}),
        (CHAT, "openai", {"maxTokens": 5, "max_tokens": 5}, {"max_tokens": 5}),
        (CHAT, "openai", {"stopStrings": "a", "stop": "a"}, {"stop": "a"}),
        (CHAT, "openai", {"maxTokens": 5, "max_tokens": None}, {"max_tokens": 5}),
        (CHAT, "lmstudio", {"maxTokens": 5, "max_completion_tokens": 5}, {"max_tokens": 5}),
    ],
)
def test_other_words_are_translated(path, kind, given, wanted):
    """A parameter in camelCase, or in another route's word, reaches the server in the word it reads."""
    assert fitted(of(**given), path, kind) == of(**wanted)


@pytest.mark.parametrize(
    ("path", "kind", "given"),
    [
        (CHAT, "gguf", {"n_predict": 5}),
        (CHAT, "openai", {"max_completion_tokens": 5, "max_tokens": 6}),
        (CHAT, "lmstudio", {"reasoning": {"effort": "low"}}),
        (MESSAGES, "gguf", {"repeatPenalty": 99}),
        (RESPONSES, "openai", {"stopStrings": 5}),
        (CHAT, "openai", {"topP": None}),
    ],
)
def test_what_nobody_can_translate_goes_on(path, kind, given):
    """A word that the server reads itself, or a parameter that it has no word for, is the server's matter."""
    body = of(**given)

    assert fitted(body, path, kind) is body


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"maxTokens": 5, "max_tokens": 6}, "maxTokens"),
        ({"max_completion_tokens": 6, "maxTokens": 5}, "maxTokens"),
        ({"topP": 0.1, "top_p": 0.2}, "topP"),
        ({"stopStrings": ["a"], "stop": "b"}, "stopStrings"),
        ({"max_output_tokens": 5, "maxTokens": 6}, "maxTokens"),
    ],
)
def test_two_words_with_two_values_are_refused(given, named):
    """One parameter in two words with different values is 400, naming the field."""
    with pytest.raises(BadRequest, match="differ") as refused:
        fitted(of(**given))

    assert refused.value.param == named


VALUES = [
    ("topP", -0.1),
    ("topP", 0),
    ("topP", 1),
    ("topP", 1.1),
    ("topP", True),
    ("topP", [1]),
    ("topK", -1),
    ("topK", 0),
    ("topK", 1.5),
    ("minP", 2),
    ("maxTokens", 0),
    ("maxTokens", 1),
    ("maxTokens", -1),
    ("repeatPenalty", -1),
    ("repeatPenalty", 1),
    ("presencePenalty", 3),
    ("frequencyPenalty", -2),
    ("stopStrings", "a"),
    ("stopStrings", ["a"]),
    ("stopStrings", [1]),
    ("stopStrings", {}),
    ("reasoningEffort", 1),
    ("reasoningEffort", "low"),
]


@pytest.mark.parametrize(("word", "value"), VALUES)
def test_own_words_take_what_the_file_takes(word, value):
    """In camelCase, dmap's own spelling, a request may say what `defaults` may say; else it is 400."""
    assert _takes_in_a_request(word, value) is _takes_in_the_file(word, value)


@pytest.mark.parametrize(
    ("word", "value"), [("temperature", 9), ("max_tokens", "x"), ("top_p", None), ("nobodys", -1)]
)
def test_the_words_of_others_are_for_servers_to_judge(word, value):
    """What is spelled as in OpenAI's API, or unknown, goes on with whatever value it has."""
    assert understood(word, value) == value


def _takes_in_a_request(word: str, value: Any) -> bool:
    try:
        understood(word, peek(of(**{word: value})).fields[word])
    except BadRequest as refused:
        assert refused.param == word
        return False
    return True


def _takes_in_the_file(word: str, value: Any) -> bool:
    head = "backends: {a: {kind: openai, url: 'http://a'}}\n"
    try:
        parse(head + json.dumps({"defaults": {word: value}})[1:-1], {})
    except ConfigProblem:
        return False
    return True


# Force and strip


@pytest.mark.parametrize(
    ("path", "body", "wanted"),
    [
        (CHAT, b'{"model":"m"}', b'{"model":"m","max_tokens":5}'),
        (CHAT, b'{"model":"m","max_tokens":9}', b'{"model":"m","max_tokens":5}'),
        (CHAT, b'{"model":"m","max_tokens":null}', b'{"model":"m","max_tokens":5}'),
        (CHAT, b'{"model":"m","max_tokens":9,"max_completion_tokens":8}', b'{"model":"m","max_tokens":5}'),
        (CHAT, b'{"model":"m","maxTokens":"no","n_predict":-1}', b'{"model":"m","max_tokens":5}'),
        (CHAT, b'{"model":"m","max_tokens\\u0000":9}', b'{"model":"m","max_tokens":5}'),
        (CHAT, b'{"model":"m","max_\\u0074okens":9}', b'{"model":"m","max_tokens":5}'),
        (RESPONSES, b'{"model":"m","max_tokens":9}', b'{"model":"m","max_output_tokens":5}'),
    ],
)
def test_what_is_forced_replaces_every_spelling(path, body, wanted):
    """A forced parameter stands once in the body, whatever the client said in whatever spelling."""
    assert fitted(body, path, force={"max_tokens": 5}, defaults={"max_tokens": 7}) == wanted


def test_what_is_forced_and_has_no_word_is_taken_out():
    """A client cannot set what is forced where the server has no word to say it in."""
    assert fitted(of(seed=1, top_k=2), MESSAGES, force={"seed": 5}) == of(top_k=2)


def test_a_forced_effort_leaves_its_neighbours():
    """Forcing the effort of reasoning leaves what else the client said of reasoning."""
    body = of(reasoning={"effort": "high", "summary": "auto"})

    made = fitted(body, RESPONSES, force={"reasoning_effort": "low"})

    assert made == of(reasoning={"effort": "low", "summary": "auto"})


@pytest.mark.parametrize(
    ("path", "given", "made"),
    [
        (CHAT, {}, {"chat_template_kwargs": {"enable_thinking": False}}),
        (CHAT, {"chatTemplateKwargs": {"a": 1}}, {"chat_template_kwargs": {"enable_thinking": False}}),
        (TEXT, {"seed": 1}, {"seed": 1}),
        (MESSAGES, {"seed": 1}, {"seed": 1}),
    ],
)
def test_what_the_template_is_told_is_for_chats(path, given, made):
    """What the chat's template is told can be forced like any parameter, where there is a template."""
    assert fitted(of(**given), path, force={"chat_template_kwargs": {"enable_thinking": False}}) == of(**made)


def test_a_forced_stream_counts():
    """A request that is made to stream, or not to, is one that does, or does not."""
    made = fit(peek(of(stream=True)), wording(CHAT, "openai"), model="m", force={"stream": False})

    assert (made.stream, made.written()) == (False, of(stream=False))


@pytest.mark.parametrize(
    ("strip", "fields", "left"),
    [
        ("logit_bias", {"logit_bias": {"1": 5}, "n": 1}, {"n": 1}),
        ("logit_bias", {"logitBias": {"1": 5}, "LOGIT_BIAS": 0}, {}),
        ("max_tokens", {"max_completion_tokens": 5, "maxTokens": 6, "n_predict": 7}, {}),
        ("max_completion_tokens", {"max_completion_tokens": 5, "max_tokens": 6}, {"max_tokens": 6}),
        ("user", {"messages": [{"user": "u"}], "user": "u"}, {"messages": [{"user": "u"}]}),
        ("stop", {"stop": "a", "stop_sequences": ["b"], "stopStrings": 5}, {}),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
def test_a_stripped_field_is_gone(path, strip, fields, left):
    """A field that is stripped is gone in all its spellings, on every route; inside others it stays."""
    assert fitted(of(**fields), path, strip=frozenset({strip})) == of(**left)


def test_nothing_to_strip():
    """A body without the field that is stripped goes on as the same object."""
    body = b'{ "model": "m" }'

    assert fitted(body, strip=frozenset({"user"})) is body


def test_a_default_takes_the_place_of_what_was_stripped():
    """Stripping takes the client's word only: a default still goes in, and what is forced wins over both."""
    made = fitted(
        of(temperature=2, top_p=0.1, seed=1, stream=True),
        strip=frozenset({"temperature", "top_p", "seed", "stream"}),
        defaults={"temperature": 0.5, "top_p": 0.6},
        force={"top_p": 0.7},
    )

    assert made == of(top_p=0.7, temperature=0.5)


def test_a_stripped_stream_is_none():
    """A request whose `stream` is stripped does not stream."""
    made = fit(peek(of(stream=True)), wording(CHAT, "openai"), model="m", strip=frozenset({"stream"}))

    assert made.stream is False


# The model


def test_an_alias_is_replaced():
    """A backend sees the model's real name; the values of the rest go on as they are."""
    body = b'{"n": 12345678901234567890123, "x": [1.0, 1e2,  "\\u00e9"], "model": "alias", "big": 1e999}'

    made = fit(peek(body), wording(CHAT, "openai"), model="real")

    assert made.model == "real"
    assert (
        made.written()
        == b'{"n":12345678901234567890123,"x":[1.0, 1e2,  "\\u00e9"],"model":"real","big":1e999}'
    )


# For any body

_names = st.sampled_from(sorted(EVERYTHING))
_keys = st.sampled_from(
    [
        *(camel(name) for name in EVERYTHING),
        *EVERYTHING,
        *(
            "max_completion_tokens",
            "max_output_tokens",
            "n_predict",
            "stop_sequences",
            "reasoning",
            "MAX_TOKENS",
        ),
        *("repetition_penalty", "messages", "x"),
    ]
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats(0, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["effort", "x"]), inner),
    max_leaves=4,
)
_paths = st.sampled_from(
    [(path, kind) for path in (CHAT, TEXT, RESPONSES, MESSAGES) for kind in ("openai", "gguf", "lmstudio")]
    + [(NATIVE, "lmstudio"), ("/v1/embeddings", "gguf")]
)
_subset = st.sets(_names).map(lambda names: {name: EVERYTHING[name] for name in names})
_bounded = settings(max_examples=200)


def accepted(fields: dict[str, Any], to: tuple[str, str], **options: Any) -> Call:
    """Fit a body of *fields*; a refusal is no example."""
    try:
        return fit(peek(of(**fields)), wording(*to), model="m", **options)
    except BadRequest:
        reject()


def _stands(word: str, said: dict[str, Any]) -> bool:
    field, _, member = word.partition(".")
    return field in said and (not member or member in said[field])


@_bounded
@given(
    st.dictionaries(_keys, _values, max_size=5),
    _paths,
)
def test_a_second_fit_changes_nothing(fields, to):
    """For any request, what was fitted once with some defaults fits them."""
    made = accepted(fields, to, defaults=EVERYTHING)

    again = fit(peek(made.written()), wording(*to), model="m", defaults=EVERYTHING)

    assert again.written() == made.written()


@_bounded
@given(
    st.dictionaries(_keys, _values, max_size=5),
    _paths,
    _subset,
)
def test_no_spelling_gets_past_a_force(fields, to, force):
    """For any request, a forced parameter has its own value in every word that its server reads."""
    made = accepted(fields, to, force=force)

    said, forced, read = json.loads(made.written()), json.loads(json.dumps(force)), wording(*to).read
    pairs = [(word, forced[name]) for name in force for word in read.get(name, ()) if "." not in word]
    assert [said.get(word, value) for word, value in pairs] == [value for _, value in pairs]
    assert [
        name for name in force if name in read and not any(_stands(word, said) for word in read[name])
    ] == []


@_bounded
@given(st.dictionaries(_keys, _values, max_size=5), _paths, _subset, _subset, st.sets(_keys))
def test_any_request_is_fitted_or_refused(fields, to, defaults, force, strip):
    """No request makes the fitting fail otherwise than by a refusal."""
    with suppress(BadRequest):
        call = peek(of(**fields))
        json.loads(
            fit(
                call, wording(*to), model="m", defaults=defaults, force=force, strip=frozenset(strip)
            ).written()
        )


# What was done


@pytest.mark.parametrize(
    ("asked", "options", "told"),
    [
        ({}, {}, {}),
        ({"temperature": 1}, {"defaults": {"temperature": 0.5}}, {}),
        (
            {"temperature": None},
            {"defaults": {"temperature": 0.5, "seed": 7}},
            {"filled": ["temperature", "seed"]},
        ),
        ({"top_p": 1}, {"force": {"top_p": 0.9, "seed": 7}}, {"forced": ["top_p", "seed"]}),
        ({"logit_bias": {}}, {"strip": frozenset({"logit_bias"})}, {"stripped": ["logit_bias"]}),
        ({"maxTokens": 5}, {}, {}),
        ({"topP": 1, "user": "me"}, {"force": {"top_p": 0.9}}, {"forced": ["top_p"]}),
        (
            {"logprobs": True, "seed": 1},
            {"strip": frozenset({"logprobs"}), "force": {"seed": 7}, "defaults": {"top_k": 4}},
            {"filled": ["top_k"], "forced": ["seed"], "stripped": ["logprobs"]},
        ),
    ],
)
def test_what_was_done_is_told(asked, options, told):
    """It is told what was filled in, forced and stripped; another name of the model or a word is neither."""
    words = wording(CHAT, "openai")
    made = fit(peek(of(**asked)), words, model="real", **options)

    assert changes(made, options.get("force", {}), words) == told
