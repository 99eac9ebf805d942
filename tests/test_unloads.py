"""Orders to unload a model: all for one model hear the same."""

import asyncio

import pytest

from dmap.errors import BackendBroke
from dmap.gate.unloads import PendingUnloads
from tests.fake_switcher import A, B


async def test_one_who_is_just_leaving_does_not_keep_the_answer_from_others() -> None:
    """An order whose task was cancelled in this very turn of the loop is passed over."""
    unloads = PendingUnloads()
    first, second = unloads.add(A.key), unloads.add(A.key)
    first.cancel()

    unloads.answer(A.key, None)

    await second
    assert len(unloads) == 0


async def test_an_error_is_told_to_all_for_that_model() -> None:
    """What went wrong with one model concerns nobody who waits for another."""
    unloads = PendingUnloads()
    first, second, other = unloads.add(A.key), unloads.add(A.key), unloads.add(B.key)

    unloads.answer(A.key, BackendBroke("it will not go"))

    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BackendBroke, BackendBroke]
    assert not other.done()
    assert unloads.leave(B.key, other)
    with pytest.raises(asyncio.InvalidStateError):
        other.result()
