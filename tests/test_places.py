"""One name on two servers: both are used, and one of them may die."""

from tests.twin_soak import twins

SERVED_S = 2.0


async def test_one_of_two_servers_is_killed(tmp_path):
    """Under load, twice: nothing is lost that had no answer yet, and the other one serves all at once."""
    async with twins(tmp_path) as stage:
        await stage.answered(20)
        served_s = [await stage.kill(0, 1.0), await stage.kill(0, 0.0)]
        await stage.answered(40)

    assert stage.tally.bad == []
    assert stage.lost == []
    assert min(stage.used) > 10
    assert max(served_s) < SERVED_S
