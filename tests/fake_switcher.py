"""A backend for the gate whose every step the test lets through by hand, and how to wait for things."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dmap.backends import Loaded, ModelInfo
from dmap.config import Device
from dmap.events import Tell
from dmap.gate import Gate, Lease
from dmap.models import ModelKey, Route

A, B, C = (Route(ModelKey("studio", model), device="gpu0") for model in "abc")


class Step:
    """One kind of call: open by default; `hold` stops callers until `release` is set."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.release.set()
        self.error: BaseException | None = None
        self.calls: list[str] = []

    def hold(self) -> None:
        """Stop the next callers."""
        self.started.clear()
        self.release.clear()

    async def __call__(self, model: str = "") -> None:
        self.calls.append(model)
        self.started.set()
        await self.release.wait()
        if self.error is not None:
            raise self.error


class FakeSwitcher:
    """A backend that notices what must never happen: serving, here, is what the test says is served."""

    def __init__(self, name: str = "studio") -> None:
        self.name = name
        self.changed: Callable[[], None] = lambda: None
        self.in_use: Callable[[str], bool] = lambda model: False
        self.residents: set[str] = set()
        self.poor: set[str] = set()
        self.serving: Counter[str] = Counter()
        self.looking, self.checking, self.loading, self.unloading = Step(), Step(), Step(), Step()
        self.options: list[Mapping[str, Any]] = []
        self.loaded = Loaded()
        self.reports: int | None = None
        """How many requests at once it says of each resident."""
        self.weighs: int | None = None
        """How many bytes it says of each."""
        self.embeds = False
        """Whether it says that they are embedding models."""
        self.under_way = 0
        self.unloaded_while_serving = False
        self.two_at_once = False
        self.frees_at_once = False

    def start(self) -> None:
        """There is nothing to watch."""

    def doubt(self, model: str) -> None:
        """Look again anyway, when asked."""

    def satisfies(self, model: str, options: Mapping[str, Any]) -> bool:
        """Say that a resident will do, unless the test has said otherwise."""
        return model not in self.poor

    async def models(self) -> Sequence[ModelInfo]:
        """Say what is resident."""
        await self.looking()
        says = {"parallel": self.reports, "size_bytes": self.weighs, "embedding": self.embeds}
        return [ModelInfo(one, resident=one in self.residents, **says) for one in ("a", "b", "c", "x")]

    async def check(self, model: str) -> None:
        """Say that it can be loaded, unless the test has said otherwise."""
        await self.checking(model)

    async def load(self, model: str, options: Mapping[str, Any]) -> Loaded:
        """Load, once released."""
        self.options.append(options)
        await self._alone(self.loading, model)
        self.residents.add(model)
        return self.loaded

    async def unload(self, model: str) -> None:
        """Unload, once released."""
        self.unloaded_while_serving |= self.serving[model] > 0
        await self._alone(self.unloading, model)
        self.residents.discard(model)

    async def _alone(self, step: Step, model: str) -> None:
        self.under_way += 1
        self.two_at_once |= self.under_way > 1
        try:
            await step(model)
        finally:
            self.under_way -= 1

    def target(self, model: str, path: str) -> Any:
        """Is not asked by the gate."""

    async def close(self) -> None:
        """Own nothing."""


async def until(true: Callable[[], bool]) -> None:
    """Let the loop turn until something is true."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never became true")


async def idle(gate: Gate) -> None:
    """Let the loop turn until no switch is under way."""
    await until(lambda: gate.snapshot().plan is None)


def ask(gate: Gate, route: Route, client: str = "me") -> "asyncio.Task[Lease]":
    """Enter a lease in a task of its own."""
    return asyncio.create_task(gate.lease(route, client).__aenter__())


async def released(asked: "asyncio.Task[Lease]") -> None:
    """Wait for a lease, and give it back."""
    (await asked).release()


async def cancelled(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait until it has gone."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@asynccontextmanager
async def running_gate(studio: FakeSwitcher, tell: Tell = lambda name, fields: None) -> AsyncGenerator[Gate]:
    """Run a gate without a cool-down; at the end nothing may be left of anybody."""
    gate = Gate("gpu0", Device(cooldown_s=0), {"studio": studio}, tell=tell)
    await gate.start()
    try:
        yield gate
        assert gate.snapshot().waiting == 0
        assert gate.snapshot().leases == 0
    finally:
        await gate.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not studio.unloaded_while_serving
    assert not studio.two_at_once
