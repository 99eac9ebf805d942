"""
A search for waits beyond the bound inside one model: random clients, each as unpleasant as chance makes it.

    python -m bench.arbitration.adversary --trials 5000

Who waits for a loaded model, at its own class, is served after `patience_s`, the answers under way, and one
answer of each client that began to wait before.
"""

import argparse
import random

from dmap.arbiter import Limits
from dmap.simulate import Loops, Workload, run

LENGTHS_S = (0.2, 1, 1, 5, 20, 60, 120)


def main() -> None:
    """Print the worst of all trials, as a share of its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    options = parser.parse_args()
    worst = max((trial(seed), seed) for seed in range(options.trials))
    print(f"{options.trials} trials; the worst wait is {worst[0]:.2f} of its bound, with seed {worst[1]}")


def trial(seed: int) -> float:
    """Return the longest wait of one trial, as a share of the bound."""
    chance = random.Random(seed)
    groups = [_group(chance) for _ in range(chance.randint(1, 5))]
    clients = sum(group.loops for group in groups)
    parallel = chance.choice((1, 1, 2, 4))
    longest_s = max(group.answer.mean for group in groups if group.answer is not None)
    workload = Workload(groups=tuple(groups), parallel=parallel, load_s=1, duration_s=1200)
    found = run(workload, seed=seed)
    waits = [request.wait_s for request in (*found.answers, *found.waiting)]
    bound_s = Limits().patience_s + ((clients - 1) / parallel + 1) * longest_s + 1
    return max(waits) / bound_s


def _group(chance: random.Random) -> Loops:
    return Loops(
        loops=chance.choice((1, 1, 2, 3, 16)),
        model="A",
        answer=chance.choice(LENGTHS_S),
        think=chance.choice((0, 0, 0.1, 1, 10)),
        start_s=chance.choice((0, 0, 5, 30)),
        pause_s=chance.choice((0, 0, 20)),
    )


if __name__ == "__main__":
    main()
