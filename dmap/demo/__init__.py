"""
`dmap demo`: a real proxy in front of two real models that may not be resident together.

The models are tiny, random, and made on the spot; the engine is llama.cpp.  What it prints is meant for a
person who sees dmap for the first time.
"""

import logging
import sys
import tempfile
from pathlib import Path

from dmap.config import parse
from dmap.daemon import serve
from dmap.demo.models import SPECS, make
from dmap.lines import Lines


async def run(port: int) -> None:
    """Make the models, and serve one of them at a time on *port* of loopback until it is interrupted."""
    text = Path(__file__).with_name("config.yaml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="dmap-demo-") as folder:
        for name, spec in SPECS.items():
            make(name, spec, Path(folder))
        _show_switches()
        await serve(parse(text, {"PORT": str(port), "FOLDER": folder}), _explain)


def _explain(url: str) -> None:
    """Print what to try."""
    print(f"\ndmap listens at {url}, in front of two models that may not be resident together.\n")
    print("In another terminal, ask one, then the other, and see who answers:\n")
    for name in SPECS:
        body = f'{{"model": "{name}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
        print(f"  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n")
    print("Each switch shows here.  Ctrl-C ends it.\n", flush=True)


def _show_switches() -> None:
    logging.basicConfig(handlers=[Lines(sys.stdout)], format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in ("dmap.gate", "dmap.requests"):
        logging.getLogger(name).setLevel(logging.INFO)
