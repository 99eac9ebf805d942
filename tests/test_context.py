"""A prompt that cannot fit its model's context is refused with both numbers, before anything is queued."""

import asyncio
import json
import logging

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from dmap.config import ConfigProblem
from dmap.errors import ContextExceeded
from dmap.kinds import ROUTES
from dmap.models import ModelKey, Route
from dmap.web.context import ContextGuard
from dmap.web.reload import reload
from dmap.wire.body import peek
from tests.conftest import config_of
from tests.fakes import answer, post
from tests.lmstudio_emulator import Emulator, Knobs
from tests.lmstudio_world import SPECS, World
from tests.test_tokens import PIECES, TOKENIZERS, count

CHAT = "/v1/chat/completions"
SMALL, BIG = "llama-3.2-1b-instruct", "openai/gpt-oss-20b"
PIXELS = "data:image/png;base64," + "iVBORw0K" * 2000


def chat(text, model="m", **fields):
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 2, **fields}


def words(count):
    """Write *count* words, none longer than three letters."""
    return " ".join(("the ebb and tide of sea " * count).split()[:count])


def call(text):
    """Read a request that says *text*."""
    return peek(json.dumps(chat(text)).encode())


LESSON = words(200)
WORDLESS = "abc" * 300
"""A text of which only a tokenizer can tell how many tokens it has."""


def asker(url):
    async def ask(body, path=CHAT):
        async with aiohttp.ClientSession(url) as session, session.post(path, json=body) as got:
            return got.status, await got.json(content_type=None)

    return ask


@pytest.fixture
def letters(tmp_path):
    """Save a tokenizer file that makes one token of every byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(tmp_path / "letters.json"))
    return tmp_path / "letters.json"


# A real engine


@pytest.fixture
async def engine(start, models):
    """Run a proxy before real engines, one model at a time, with a context of 256."""
    return await start(
        f"""
        devices: {{box: {{max_models: 1, cooldown_s: 0}}}}
        backends: {{local: {{kind: gguf, path: '{models}', device: box, context_length: 256}}}}
        models: {{tiny-kitchen: {{load: {{context_length: 512}}}}}}
        """
    )


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": [{"role": "user", "content": " tide" * 300}]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": " tide" * 300}], "stream": True}, "messages"),
        ("/v1/completions", {"prompt": " tide" * 300}, "prompt"),
        ("/v1/completions", {"prompt": ["short", " tide" * 300]}, "prompt"),
        ("/v1/completions", {"prompt": [7] * 300}, "prompt"),
        ("/v1/responses", {"input": " tide" * 300}, "input"),
        (
            "/v1/messages",
            {"messages": [{"role": "user", "content": " tide" * 300}], "max_tokens": 9},
            "messages",
        ),
        ("/v1/embeddings", {"input": [" tide" * 300]}, "input"),
    ],
)
async def test_a_resident_engine_counts(engine, path, body, param):
    """On every route the resident's own count decides, and both numbers are told."""
    ask = asker(engine.url)
    await ask(chat("Hello", "tiny-sea"))

    status, got = await ask({"model": "tiny-sea", **body}, path)

    error = got["error"]
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", param)
    assert error["message"].startswith("the prompt has 3")
    assert error["message"].endswith(" tokens, more than the context of 256 that 'tiny-sea' has")
    assert (error["type"], got["src"]) == ("invalid_request_error", "dmap")


@pytest.mark.parametrize(("length", "status"), [(100, 200), (236, 200), (237, 400), (238, 400), (4000, 400)])
async def test_the_count_is_the_engines(engine, length, status):
    """What is refused is what the engine itself would refuse; 19 tokens are the chat template's."""
    ask = asker(engine.url)
    await ask(chat("Hello", "tiny-sea"))

    got = await ask(chat(" tide" * (length - 1) + " ebb", "tiny-sea"))

    assert got[0] == status
    assert status == 200 or got[1]["error"]["code"] == "context_length_exceeded"


async def test_a_model_has_its_own_context(engine):
    """The context of the configuration counts: what is too much for one model is not for another."""
    ask = asker(engine.url)
    await ask(chat("Hello", "tiny-kitchen"))

    assert (await ask(chat(" basil" * 300, "tiny-kitchen")))[0] == 200
    assert "of 512" in (await ask(chat(" basil" * 600, "tiny-kitchen")))[1]["error"]["message"]


async def test_large_tools_are_no_text(engine):
    """A small prompt with large tools is not refused by dmap; what the engine makes of it is its business."""
    ask = asker(engine.url)
    await ask(chat("Hello", "tiny-sea"))
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 3000, "parameters": {}}}

    _, got = await ask(chat("Hello", "tiny-sea", tools=[tool]))

    assert got["error"]["message"].startswith("request (")


async def test_a_model_that_is_not_loaded(engine):
    """Nobody can count for a model that is not resident: it is loaded, and its engine refuses."""
    status, got = await asker(engine.url)(chat("tide" * 300, "tiny-sea"))

    assert (status, got["error"]["code"]) == (400, "context_length_exceeded")
    assert got["error"]["message"].startswith("request (")


async def test_the_bound_spares_the_load(engine):
    """A prompt of too many words is refused without loading its model, from the first request on."""
    ask = asker(engine.url)
    await ask(chat("Hello", "tiny-kitchen"))

    status, got = await ask(chat(" tide" * 300, "tiny-sea"))

    told = "the prompt has at least 300 tokens, more than the context of 256 that 'tiny-sea' has"
    residents = {key.model for key in engine.proxy.residents()}
    assert (status, got["error"]["message"], residents) == (400, told, {"tiny-kitchen"})


async def test_a_tokenizer_file_spares_the_load(start, models, letters):
    """With a tokenizer file a prompt is refused without loading its model."""
    proxy = await start(
        f"""
        devices: {{box: {{max_models: 1, cooldown_s: 0}}}}
        backends: {{local: {{kind: gguf, path: '{models}', device: box, context_length: 256}}}}
        models: {{tiny-sea: {{tokenizer: '{letters}'}}}}
        """
    )

    status, got = await asker(proxy.url)(chat("x" * 5210, "tiny-sea"))

    told = "the prompt has 5,210 tokens, more than the context of 256 that 'tiny-sea' has"
    assert (status, got["error"]["message"], proxy.proxy.residents()) == (400, told, set())


# A server of somebody else's


@pytest.fixture
def limited(start, backend):
    """Start proxies before the fake backend, for whose model `m` a context is configured."""

    def run(options="", context=256):
        model = f"{{backend: fake, load: {{context_length: {context}}}, {options}}}"
        return start(f"backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\nmodels: {{m: {model}}}")

    return run


def says(tokenize, tokens=9, status="200 OK"):
    """Script a backend that answers *tokenize* to that question, and chats of *tokens* to others."""

    async def script(exchange):
        usage = {"prompt_tokens": tokens, "completion_tokens": 1}
        said = {"id": "1", "object": "chat.completion", "choices": [], "usage": usage}
        asked = exchange.path == "/tokenize"
        await exchange.write(
            answer(json.dumps(tokenize if asked else said).encode(), status=status if asked else "200 OK")
        )

    return script


def paths(backend):
    return [exchange.path for exchange in backend.requests]


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({"count": 257, "max_model_len": 256, "tokens": []}, 400),
        ({"count": 256, "max_model_len": 256, "tokens": []}, 200),
        ({"tokens": [1] * 257}, 400),
        ({"tokens": [1] * 256}, 200),
        ({"error": "Unexpected endpoint or method. (POST /tokenize)"}, 200),
        ([], 200),
    ],
)
async def test_a_server_with_tokenize_counts(limited, backend, told, status):
    """vLLM and llama.cpp's server are asked; what cannot count refuses nothing."""
    proxy = await limited()
    backend.script = says(told)

    assert (await asker(proxy.url)(chat(WORDLESS)))[0] == status


async def test_only_long_prompts_are_asked_for(limited, backend):
    """A body with fewer bytes than the context has tokens goes on without a question."""
    proxy = await limited()
    backend.script = says({"count": 999})

    status, _ = await asker(proxy.url)(chat("a" * 100))

    assert (status, paths(backend)) == (200, [CHAT])


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PIXELS}}],
        [{"type": "input_audio", "input_audio": {"data": "UklGR" * 3000, "format": "wav"}}],
    ],
)
async def test_images_are_no_text(limited, backend, letters, content):
    """However large an image is, it is no part of the text that has to fit."""
    proxy = await limited(f"tokenizer: '{letters}'")
    backend.script = says({"count": 999})

    status, _ = await asker(proxy.url)(chat(content))

    assert (status, paths(backend)) == (200, [CHAT])


@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed", "501 Not Implemented"])
async def test_a_server_without_is_not_asked_again(limited, backend, status):
    """A backend that has no such route is asked once, then left in peace."""
    proxy = await limited()
    backend.script = says({}, status=status)
    ask = asker(proxy.url)

    answers = [(await ask(chat(WORDLESS)))[0], (await ask(chat(WORDLESS)))[0]]

    assert (answers, paths(backend)) == ([200, 200], ["/tokenize", CHAT, CHAT])


async def test_a_count_that_fails_lets_through(limited, backend, caplog):
    """A backend that breaks off while it counts is told in the log, once, and the request goes on."""
    proxy = await limited()
    whole = says({})

    async def script(exchange):
        exchange.cut() if exchange.path == "/tokenize" else await whole(exchange)

    backend.script = script
    ask = asker(proxy.url)
    with caplog.at_level(logging.WARNING, "dmap.web.context"):
        answers = [(await ask(chat(WORDLESS)))[0], (await ask(chat(WORDLESS)))[0]]

    assert (answers, paths(backend)) == ([200, 200], ["/tokenize", CHAT, CHAT])
    assert [record.message.split()[:3] for record in caplog.records] == [
        ["not_counted", "backend=fake", "model=m"]
    ]


async def test_a_client_that_leaves_gives_back_its_turn(limited, backend):
    """Clients that leave while they are counted leave nothing behind: the next are counted."""
    proxy = await limited()
    backend.script = backend.by_hand
    clients = [await proxy.client() for _ in range(4)]
    await asyncio.gather(*(client.send(post(chat(WORDLESS))) for client in clients))
    held = [await backend.next(), await backend.next()]
    [client.reset() for client in clients]
    await asyncio.gather(*(exchange.abandoned() for exchange in held))
    backend.script = says({"count": 999})

    status, _ = await asker(proxy.url)(chat(WORDLESS))

    assert (status, len(paths(backend))) == (400, 3)


async def test_a_tokenizer_file_counts_for_any_server(limited, backend, letters):
    """Where the server does not count, the tokenizer file does, exactly."""
    proxy = await limited(f"tokenizer: '{letters}'")
    backend.script = says({}, status="404 Not Found")
    ask = asker(proxy.url)

    assert (await ask(chat("x" * 256)))[0] == 200
    assert "has 257 tokens" in (await ask(chat("x" * 257)))[1]["error"]["message"]


async def test_a_reload_reads_tokenizer_files(limited, backend, letters, tmp_path):
    """A reload takes a tokenizer file; one that cannot be read changes nothing."""
    proxy = await limited()
    backend.script = says({}, status="404 Not Found")
    model = "models: {m: {backend: fake, load: {context_length: 256}, tokenizer: '%s'}}"
    head = f"listen: {{port: 0}}\nbackends: {{fake: {{kind: openai, url: '{backend.url}'}}}}\n"
    reload(proxy.proxy, config_of(head + model % letters))
    with pytest.raises(ConfigProblem, match=r"models\.m\.tokenizer"):
        reload(proxy.proxy, config_of(head + model % (tmp_path / "none.json")))

    assert (await asker(proxy.url)(chat("x" * 300)))[0] == 400


async def test_a_tokenizer_file_that_is_none_stops_the_start(limited, tmp_path):
    """A tokenizer file that cannot be read is told at the start."""
    with pytest.raises(ConfigProblem, match=r"models\.m\.tokenizer: .* cannot be read"):
        await limited(f"tokenizer: '{tmp_path}'")


async def test_words_are_tokens_at_least(limited, backend):
    """Where nobody counts, a prompt of more words than the context has tokens is refused, the first too."""
    proxy = await limited(context=4096)
    backend.script = says({}, status="404 Not Found")

    status, got = await asker(proxy.url)(chat(words(60_000)))

    assert (status, paths(backend)) == (400, ["/tokenize"])
    assert "has at least 60,000 tokens, more than the context of 4,096" in got["error"]["message"]


async def complete(ask, prompt):
    await ask({"model": "m", "prompt": prompt}, "/v1/completions")


@pytest.mark.parametrize(
    ("prompt", "tokens", "status"),
    [
        (words(200), 260, 400),
        (words(200), 199, 200),
        (words(60), 59, 200),
        (words(130), 129, 200),
        (words(500), 499, 400),
        (words(130) + " " * 9000, 129, 400),
        (words(1023), 514, 400),
        (words(1023), 1020, 400),
        (words(600), 513, 400),
        (words(200), 0, 400),
    ],
)
async def test_one_answer_with_fewer_tokens_than_words(limited, backend, prompt, tokens, status):
    """An answer with fewer tokens than words ends the bound, unless its server may have truncated."""
    proxy = await limited(context=1024)
    backend.script = says({}, tokens, status="404 Not Found")
    ask = asker(proxy.url)
    await complete(ask, prompt)

    assert (await ask(chat(words(1100))))[0] == status


async def test_a_bound_of_one_model_is_no_other_models(start, backend):
    """What an answer says of one model's tokenizer is not held against another model."""
    proxy = await start(
        f"""
        backends: {{fake: {{kind: openai, url: '{backend.url}'}}}}
        models:
          m: {{backend: fake, load: {{context_length: 1024}}}}
          n: {{backend: fake, load: {{context_length: 1024}}}}
        """
    )
    backend.script = says({}, 9, status="404 Not Found")
    ask = asker(proxy.url)
    await complete(ask, LESSON)

    assert (await ask(chat(words(1100))))[0] == 200
    assert (await ask(chat(words(1100), "n")))[0] == 400


@pytest.mark.parametrize(
    "text", [" " * 90_000, "=" * 90_000, "\n" * 9000, "x" * 128 * 1024, words(1024), "\u3000" * 9000]
)
async def test_what_may_fit_is_not_refused(limited, backend, text):
    """Long runs may be few tokens: only what cannot fit is refused by the bound."""
    proxy = await limited(context=1024)
    backend.script = says({}, 260, status="404 Not Found")

    assert (await asker(proxy.url)(chat(text)))[0] == 200


TRUNCATED = {
    "not": lambda tokens, context: tokens,
    "to what fits": min,
    "to half": lambda tokens, context: tokens if tokens <= context else context // 2 + 2,
    "to the last message": lambda tokens, context: tokens if tokens <= context else 9,
}
"""How many tokens servers read of a prompt, as they tell in `usage`."""
WORSE = {
    "to what was not cached": lambda tokens, context: tokens % 100,
    "to nonsense": lambda tokens, context: 1,
}
STUDIO = config_of("""
    devices: {gpu0: {}}
    backends: {studio: {kind: lmstudio, url: 'http://127.0.0.1:9', device: gpu0}}
    """)

_guarded = settings(max_examples=50)
_texts = st.lists(st.tuples(PIECES, st.integers(1, 60)).map(lambda both: both[0] * both[1]), max_size=12)


class Taught:
    """A guard that has seen answers from a server that cuts prompts to *read* of their tokens."""

    def __init__(self, tokenizer, read, context):
        self.guard = ContextGuard(STUDIO, {}, {})
        self.route = Route(ModelKey("studio", "m"), context_length=context)
        self.read = lambda text: read(count(tokenizer, text), context)

    def see(self, *texts):
        for text in texts:
            self.guard.learn(self.route, ROUTES[CHAT], call(text), self.read(text))
        return self

    def refuses(self, text):
        return refuses(self.guard, self.route, text)


def refuses(guard, route, text):
    try:
        asyncio.run(guard.check(route, ROUTES[CHAT], call(text)))
    except ContextExceeded:
        return True
    return False


@pytest.mark.parametrize("name", TOKENIZERS)
@_guarded
@given(
    read=st.sampled_from([*TRUNCATED.values(), *WORSE.values()]),
    context=st.integers(64, 1024),
    texts=_texts,
    last=PIECES.map(lambda piece: piece * 120),
)
def test_what_fits_is_never_refused(name, read, context, texts, last):
    """Whatever a server answered, and however it truncates, a prompt that fits is let through."""
    taught = Taught(TOKENIZERS[name], read, context).see(*texts)

    assert not (taught.refuses(last) and count(TOKENIZERS[name], last) <= context)


@pytest.mark.parametrize("read", TRUNCATED)
@_guarded
@given(context=st.integers(512, 1024), texts=_texts, more=st.integers(1, 99))
def test_truncations_do_not_unteach(read, context, texts, more):
    """However many prompts were truncated, as servers are known to do it, the bound holds."""
    taught = Taught(TOKENIZERS["greedy"], TRUNCATED[read], context).see(*texts)

    assert taught.refuses(words(context + more))


# LM Studio, which truncates


class Counting(Emulator):
    """An LM Studio that tells how many tokens it read: four for three words."""

    async def _chat(self, request, body):
        response = await super()._chat(request, body)
        told = json.loads(response.body)
        told["usage"]["prompt_tokens"] = len(json.dumps(body["messages"]).split()) * 4 // 3
        return web.json_response(told)


@pytest.fixture
async def lm():
    lm = Counting(World(SPECS, None, Knobs(load_s=0.02)))
    await lm.start()
    yield lm
    await lm.stop()


async def test_lm_studio_gets_nothing_to_truncate(start, lm):
    """What cannot fit is refused by the bound, before its model is switched to."""
    proxy = await start(
        f"""
        devices: {{gpu0: {{max_models: 1, cooldown_s: 0, patience_s: 1}}}}
        backends: {{studio: {{kind: lmstudio, url: '{lm.url}', device: gpu0}}}}
        models: {{{SMALL}: {{load: {{context_length: 4096}}}}}}
        """
    )
    ask = asker(proxy.url)
    answers = await asyncio.gather(*(ask(chat(words(500 + n), SMALL)) for n in range(2)))
    other = await ask(chat("Hello", BIG))
    loads = [body["model"] for _, path, body in lm.requests if path.endswith("/load")]
    status, got = await ask(chat(words(5210), SMALL))

    told = f"the prompt has at least 5,210 tokens, more than the context of 4,096 that {SMALL!r} has"
    assert ({status for status, _ in answers}, other[0]) == ({200}, 200)
    assert (status, got["error"]["code"], got["error"]["message"]) == (400, "context_length_exceeded", told)
    assert [body["model"] for _, path, body in lm.requests if path.endswith("/load")] == loads == [SMALL, BIG]
    assert [path for _, path, _ in lm.requests if path.endswith("tokenize")] == []
