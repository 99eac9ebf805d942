"""
`make demo-lmstudio`: dmap in front of the emulated LM Studio of the tests.

All of the set-up but the models: dmap loads and unloads over the REST API, and an answer is its model's
name again and again.  The counterpart with real models and no LM Studio is `dmap demo`.
"""

import argparse
import json
import logging
import sys
import tempfile

import uvloop

from dmap.config import Config, parse
from dmap.daemon import serve
from tests.lmstudio_emulator import Knobs, emulator

MODELS = ("llama-3.2-1b-instruct", "ibm/granite-4-micro")

_CONFIG = """
listen: {{host: 127.0.0.1, port: {port}}}
devices:
  gpu0: {{max_models: 1, cooldown_s: 0.5}}
backends:
  studio: {{kind: lmstudio, url: '{url}', device: gpu0}}
state: {folder}/state.json
"""


def config(url: str, port: int, folder: str) -> Config:
    """Return a configuration for the LM Studio at *url*, one model at a time, its state in *folder*."""
    return parse(_CONFIG.format(port=port, url=url, folder=folder), {})


async def run(port: int, load_s: float) -> None:
    """Run the demo on *port* of loopback until it is interrupted; a load takes *load_s*."""
    _show_switches()
    with tempfile.TemporaryDirectory(prefix="dmap-demo-") as folder:
        async with emulator(knobs=Knobs(load_s=load_s, token_s=0.03, tokens=60)) as studio:
            await serve(config(studio.url, port, folder), lambda url: _explain(url, studio.url))


def _explain(url: str, studio_url: str) -> None:
    """Print what to try."""
    print(f"\ndmap listens at {url}, in front of an emulated LM Studio at {studio_url}.")
    print("In another terminal, ask one model, then the other:\n")
    for name in MODELS:
        messages = [{"role": "user", "content": "Hello"}]
        body = json.dumps({"model": name, "stream": True, "messages": messages})
        print(f"  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'\n")
    print("Each switch shows here.  Ctrl-C ends it.\n", flush=True)


def _show_switches() -> None:
    """Log one line per switch, and whatever the watch warns of."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("dmap.gate").setLevel(logging.INFO)


def main() -> None:
    """Read the command line and run the demo."""
    parser = argparse.ArgumentParser(description="dmap in front of an emulated LM Studio")
    parser.add_argument("--port", type=int, default=8000, help="where to listen on loopback (8000)")
    parser.add_argument("--load-s", type=float, default=2.0, help="seconds that a load takes (2)")
    options = parser.parse_args()
    try:
        uvloop.run(run(options.port, options.load_s))
    except KeyboardInterrupt:
        pass
    except OSError as exc:
        sys.exit(f"dmap: {exc}")


if __name__ == "__main__":
    main()
