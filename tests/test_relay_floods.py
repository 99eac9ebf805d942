"""Whatever a backend sends, and however much of it: the loop is never held up, and memory is bounded."""

import asyncio
import threading

import pytest

from tests.fakes import chat, post
from tests.floods import FLOODS, MIB, Flooding, read_all, toll

TOTAL = 10 * MIB
LONGEST_S = 0.1


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood(start, name):
    """An answer without end costs each turn of the loop little, and no memory."""
    server = Flooding(*FLOODS[name], TOTAL)
    threading.Thread(target=server.serve, daemon=True).start()
    proxy = await start(f"backends: {{flood: {{kind: openai, url: '{server.url}'}}}}")
    request = post(chat(stream="plain" not in name), headers="Connection: close\r\n")

    with server.listener, toll() as found:
        await asyncio.to_thread(read_all, proxy.daemon.addresses[0], request)

    assert found.longest_s < LONGEST_S
    assert found.gained_mib < 40
    await proxy.settled()
