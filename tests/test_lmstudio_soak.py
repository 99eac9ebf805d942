"""dmap as a process before an emulated LM Studio as another, under a crowd; `bench/` has the long runs."""

import asyncio

import aiohttp
import pytest

from tests.lmstudio_clients import Call, judged_stream, read
from tests.lmstudio_outside import PHASES, Hands, kill
from tests.lmstudio_soak import scene

PACE = 0.3


async def test_a_crowd_is_served(tmp_path):
    """Every request of 24 clients is answered whole, by its own model, one model being loaded at a time."""
    async with scene(tmp_path, pace=PACE) as stage:
        await stage.answered(100)

    assert stage.tally.kinds().keys() == {"answer"}
    assert stage.tally.fewest() > 0
    assert (stage.studio.cuts(), stage.studio.loads("jit"), stage.studio.most()) == ([], 0, 1)


@pytest.mark.parametrize("phase", PHASES)
async def test_a_server_is_killed(tmp_path, phase):
    """Killed at any moment, nobody hears a lie or nothing, and dmap serves soon after its return."""
    async with scene(tmp_path, pace=PACE) as stage:
        await stage.answered(5)
        killed = await kill(stage, phase)

    assert stage.tally.bad == []
    assert killed.answer_s is not None, "`bench.soak_lmstudio kills` has the bar of 2 s"
    assert stage.studio.stacks("rest") + stage.studio.stacks("jit") == []


@pytest.mark.parametrize("jit", [True, False])
async def test_others_load_and_unload(tmp_path, jit):
    """Whatever others load and unload, dmap makes no second instance and passes on no other model's words."""
    async with scene(tmp_path, pace=PACE, jit=jit) as stage, Hands(stage) as hands:
        await hands.moves(20, 0.6 * PACE)

    assert stage.tally.bad == []
    assert stage.tally.of("answer")
    # Whoever unloads a model between dmap's look and its requests makes LM Studio load it for each of them.
    assert stage.studio.stacks("rest") + stage.studio.uncalled() == []


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ('data: {"choices": [{"delta": {"content": "a a "}}]}\n\ndata: [DONE]\n\n', "answer"),
        ('data: {"choices": [{"delta": {"content": "a b "}}]}\n\ndata: [DONE]\n\n', "wrong"),
        ('data: {"choices": [{"delta": {"content": "a a "}}]}\n\n', "short"),
        ('data: {"choices": [{"delta": {"content": "a "}}]}\n\ndata: [DONE]\n\n', "short"),
        ('data: {"choices": [{"delta": {"content": "a "}}]}\n\ndata: {"error": {"code": "c"}}\n\n', "told"),
        ('data: {"choices": [{"delta": {"content": "b "}}]}\n\ndata: {"error": {"code": "c"}}\n\n', "wrong"),
    ],
)
def test_the_clients_judge(body, kind):
    """A stream is an answer only with all words of its own model and its end mark."""
    call = Call("/v1/chat/completions", "a", 2, stream=True)

    assert judged_stream(call, body.encode(), None)[0] == kind


async def test_what_came_before_a_cut_is_read():
    """A client that is late sees the error and the cut at once, and judges by both."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nerror\r\n")
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}") as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.wait_eof()

        body, broken = await read(answer)

    assert (body, type(broken)) == (b"error", aiohttp.ClientPayloadError)
