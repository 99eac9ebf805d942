"""A campaign of rubbish on a small scale; `bench/fuzz.py` is the same at length."""

import tracemalloc

import pytest

from tests.fuzzing import campaign
from tests.rubbish import requests

FEW, ALL = 500, 1100
GROWTH_BYTES = 2**20
"""What caches, rings and the state files may still take after the first `FEW`: 300 KiB were seen."""


@pytest.fixture
def trace():
    """Have the memory that Python takes from then on counted, which makes everything slow."""
    yield tracemalloc.start
    tracemalloc.stop()


async def test_rubbish_does_no_harm(tmp_path, trace):
    """
    Whatever comes, dmap says nothing out of shape, nothing that is its own fault, and keeps nothing of it.

    Afterwards models are loaded by order, and answer, as ever.
    """
    asks = requests(ALL)
    async with campaign(tmp_path) as ran:
        trace()
        await ran.run(asks[:FEW])
        before = ran.held_bytes()
        await ran.run(asks[FEW:])
        grown = ran.held_bytes() - before
        await ran.goes_on()

        assert ran.findings == []
        assert grown < GROWTH_BYTES
        assert all(site.loads and site.answers for site in ran.sites.values())
        assert ran.outcomes["200 stream"]


def test_the_same_number_is_the_same_rubbish():
    """A finding can be had again."""
    digests = {hash(tuple(requests(50, 7))) for _ in range(2)}

    assert len(digests) == 1
