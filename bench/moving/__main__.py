"""
Compare llama-swap and dmap after `dmap import llama-swap`: the words of commands, then the same requests.

    python -m bench.moving --llama-swap BIN --llama-server BIN     # three minutes on two busy cores

The two tables of requests are those of docs/moving.md.  The exit code is 1 if a command has other words.
"""

import argparse
import shutil
import sys
from pathlib import Path

from bench.moving import requests, words


def main() -> None:
    """Read the command line, and print what comes of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("llama-swap", "llama-server"):
        parser.add_argument(f"--{name}", type=Path, default=shutil.which(name), help="where the program is")
    options = parser.parse_args()
    if options.llama_swap is None:
        parser.error("there is no llama-swap")
    differing = words.compare(options.llama_swap.absolute())
    if options.llama_server is not None:
        print(
            "\n" + "\n".join(requests.table(options.llama_swap.absolute(), options.llama_server.absolute()))
        )
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
