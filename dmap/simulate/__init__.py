"""
The arbiter under virtual time: what its policy makes of known workloads, beside two simpler policies.

It drives the same `Arbiter` as the gate does; `policies` has the others, `world` the run.
"""

from collections.abc import Sequence

from dmap.simulate.policies import POLICIES
from dmap.simulate.world import Arrivals, Crowd, Workload, run

WORKLOADS: tuple[Workload, ...] = (
    Workload("2 clients, 2 models", (Crowd("A", 1), Crowd("B", 1))),
    Workload("the same, thinking 1 s", (Crowd("A", 1, 1), Crowd("B", 1, 1))),
    Workload("the same, thinking 3 s", (Crowd("A", 1, 3), Crowd("B", 1, 3))),
    Workload("6 clients, 3 models", (Crowd("A", 2), Crowd("B", 2), Crowd("C", 2))),
    Workload("2 of A, 1 of B", (Crowd("A", 2), Crowd("B", 1))),
    Workload("24 of A, 24 of B, 1 of C", (Crowd("A", 24), Crowd("B", 24), Crowd("C", 1)), parallel=4),
    Workload("48 clients, 4 models", tuple(Crowd(model, 12) for model in "ABCD"), parallel=2),
    Workload(
        "open, 80/15/5 % at 1/s",
        arrivals=Arrivals(1.0, (("A", 80), ("B", 15), ("C", 5))),
        parallel=4,
        answer_s=2.0,
    ),
    Workload(
        "open, 50/50 at 0.7/s", arrivals=Arrivals(0.7, (("A", 50), ("B", 50))), parallel=4, answer_s=2.0
    ),
)


def run_table(workloads: Sequence[Workload] = WORKLOADS) -> str:
    """Play each workload under each policy and lay out the figures; takes a few seconds."""
    heads = f"{'workload':<26}{'policy':<7}{'served':>7}{'switches':>10}{'mean':>9}{'p95':>9}{'longest':>9}"
    lines = [heads, f"{'':<26}{'':<7}{'':>7}{'/request':>10}{'s':>9}{'s':>9}{'s':>9}"]
    for workload in workloads:
        for number, policy in enumerate(POLICIES):
            name, result = "" if number else workload.name, run(workload, policy)
            counts = f"{name:<26}{policy:<7}{result.served:>7}{result.switches_per_request:>10.4f}"
            waits = f"{result.mean_s:>9.1f}{result.p95_s:>9.1f}{result.longest_s:>9.1f}"
            lines.append(counts + waits)
    return "\n".join(lines)
