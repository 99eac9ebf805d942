"""A model that is resident as a child process, and what becomes of one that hangs."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from dmap.backends.ask import Unheard
from dmap.backends.base import Loaded, Target
from dmap.backends.resident import MISSES, Recipe, Resident
from dmap.backends.residents import Residents
from dmap.errors import BackendDown, LoadFailed
from dmap.process import Child, Log
from tests.fakes import HERE_S
from tests.ports import free_port


async def nobody(child: Child) -> tuple[Target, Loaded]:
    """Say of a *child* that it has come up, where nobody answers."""
    return Target.of(f"http://127.0.0.1:{free_port()}", None), Loaded()


def recipe_of(come_up: Callable[[Child], Coroutine[Any, Any, tuple[Target, Loaded]]]) -> Recipe:
    """Return how a child is made that says one line, and lives."""
    command = ("sh", "-c", "echo here; exec sleep 600")
    return Recipe("m", command, {}, come_up, "/health", lambda what, lines: what)


def one(come_up: Callable[[Child], Coroutine[Any, Any, tuple[Target, Loaded]]]) -> Resident:
    """Return one whose child says one line, and lives."""
    return Resident(recipe_of(come_up), {}, Log(), lambda gone: None)


async def resident() -> Resident:
    """Return one whose child lives, and never answers."""
    made = one(nobody)
    await made.come_up(HERE_S)
    return made


async def test_a_child_that_hangs_is_told_once(caplog: Any) -> None:
    """It is killed and told, and not told again before the kernel has taken it away."""
    hung = await resident()
    looks = [hung.check("box", HERE_S, in_use=False) for _ in range(MISSES + 1)]

    await asyncio.gather(*looks)
    await hung.child.ended()

    assert hung.child.status == -9
    assert caplog.text.count("engine_hung") == 1


@pytest.mark.parametrize(
    ("number", "why"),
    [(signal.SIGKILL, "ended with status -9"), (signal.SIGCONT, "does not answer: the connection broke")],
)
async def test_a_child_that_hangs_up_while_it_loads(number: int, why: str) -> None:
    """Who is killed then has ended, though its connections break before its end is known; others have not."""

    async def hung_up(child: Child) -> tuple[Target, Loaded]:
        assert await child.first_line() == "here"
        assert child.pid is not None
        os.kill(child.pid, number)
        raise Unheard("the connection broke")

    with pytest.raises(LoadFailed, match=f"cannot load model 'm': it {why}"):
        await one(hung_up).come_up(HERE_S)


async def test_a_child_that_ends_as_it_comes_up() -> None:
    """Its answer is of no use: nobody would hear of an end that was before it counted as loaded."""

    async def ended(child: Child) -> tuple[Target, Loaded]:
        assert await child.first_line() == "here"
        child.kill()
        while child.status is None:
            await asyncio.sleep(0)
        return await nobody(child)

    with pytest.raises(LoadFailed, match="it ended with status -9"):
        await one(ended).come_up(HERE_S)


async def test_a_close_while_a_load_is_prepared() -> None:
    """Nothing is started after it, and what was taken for the load is given back."""
    prepared, closed, freed = asyncio.Event(), asyncio.Event(), asyncio.Event()
    residents = Residents("box", HERE_S, HERE_S, lambda: None, lambda model: False)

    async def recipe() -> Recipe:
        prepared.set()
        await closed.wait()
        return replace(recipe_of(nobody), freed=freed.set)

    load = asyncio.ensure_future(residents.load("m", {}, recipe))
    await prepared.wait()
    await residents.close()
    closed.set()

    with pytest.raises(BackendDown, match="is closed"):
        await load
    assert freed.is_set()
