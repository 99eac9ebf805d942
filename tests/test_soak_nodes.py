"""A node that is killed under load costs the answers that it was giving, and nothing else."""

from bench.soak_nodes import run


async def test_kills_of_nodes(tmp_path):
    """No request that had not been granted is lost, no answer is short, and nothing is left over."""
    tally, faults = await run(tmp_path, count=2, seed=1)

    assert faults == []
    assert tally.kinds["answer"] > 2
