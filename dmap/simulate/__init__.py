"""
The arbiter under virtual time: what its policy makes of workloads, beside plain policies.

It drives the same `Arbiter` as the gate does.  `workload` reads the files of `workloads/`, `groups` has who
asks, `world` the run, `plain` the other policies.
"""

from dmap.simulate.figures import Figures, figures_of, together
from dmap.simulate.groups import Agents, Arrivals, Bursts, Loops, Request
from dmap.simulate.policies import POLICIES, Policy
from dmap.simulate.result import Result
from dmap.simulate.workload import Model, Workload, every, read_file
from dmap.simulate.world import play, run

__all__ = [
    "POLICIES",
    "Agents",
    "Arrivals",
    "Bursts",
    "Figures",
    "Loops",
    "Model",
    "Policy",
    "Request",
    "Result",
    "Workload",
    "every",
    "figures_of",
    "play",
    "read_file",
    "run",
    "together",
]
