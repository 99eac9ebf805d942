"""
What a choice costs a front: of 20 nodes the best one for a request, where each has 50 models.

    python -m bench.choose

It is CPU time of the thread, so a busy machine shows only by its caches.  In one half of the choices a
quarter of the nodes has the model, in the other half all have it: then all are hashed.
"""

import asyncio
import statistics
import time

from dmap.access import Client
from dmap.config import parse
from dmap.web.choice import best
from dmap.web.proxy import Proxy
from dmap.wire.view import WIRE, At, Line, Listed, NodeView, SeenGate

NODES, MODELS, CHOICES = 20, 50, 5000
NAMES = [f"model-{number}" for number in range(MODELS)]
HERE = Line(0.0, 5.0, 4, resident=True)


def view_of(number: int, every: int) -> NodeView:
    """Return what a node says that has each model but one of *every* on its disk only."""
    lines = {name: HERE for at, name in enumerate(NAMES) if (at + number) % every == 0}
    listed = [Listed(name, [At("gpu", name, 3.0)], kind="gguf") for name in NAMES]
    return NodeView(
        WIRE, f"{number:x}", 1, {"gpu": SeenGate(8.0, 5.0, 4, drained=False, lines=lines)}, "a", listed
    )


async def took_us(every: int) -> list[float]:
    """Choose again and again, for one conversation after the other; return what each choice took."""
    nodes = "\n".join(
        f"  box{number}: {{url: 'http://127.0.0.1:{9000 + number}', api_key: k}}" for number in range(NODES)
    )
    proxy, took = Proxy(parse(f"nodes:\n{nodes}", {})), []
    for number, (name, node) in enumerate(proxy.nodes.items()):
        node._take(view_of(number, every))  # type: ignore[attr-defined]
        proxy.catalog.update(name, node._infos)  # type: ignore[attr-defined]
    for number in range(CHOICES):
        routes = proxy.catalog.resolve(NAMES[number % MODELS], Client("anna"))
        began = time.thread_time_ns()
        best(proxy, routes, f"anna {number}")
        took.append((time.thread_time_ns() - began) / 1000)
    return took


def main() -> None:
    """Print the median and the 99th percentile of both halves."""
    for words, every in (("a quarter has it", 4), ("all have it", 1)):
        took = asyncio.run(took_us(every))
        p99 = statistics.quantiles(took, n=100)[98]
        print(f"{NODES} nodes, {words}: median {statistics.median(took):.0f} us, p99 {p99:.0f} us")


if __name__ == "__main__":
    main()
