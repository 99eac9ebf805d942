"""
The program of the embedded engine's children: one GGUF file served over HTTP on loopback by xllamacpp.

`python engine.py MODEL --alias NAME ...`, by its path: it imports nothing of dmap.  The API key comes in the
environment (`KEY_VARIABLE`), where other users cannot read it.  When the model answers, one line
`READY <port>` goes to standard output, and nothing else ever does: whatever llama.cpp prints is sent to
standard error.

There is no graceful end, on purpose.  Freeing a llama.cpp server waits for its streams (up to 30 s), so
SIGTERM keeps its default and ends the process on the spot, also during a load, where Python could not run a
signal handler.  SIGINT is ignored: Ctrl-C goes to every process of a terminal, and the parent decides.

It ends with its parent, however that dies.  While a model loads no Python runs, so the kernel has to send a
SIGKILL (`PR_SET_PDEATHSIG`); afterwards the end of standard input tells as well.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

KEY_VARIABLE = "DMAP_ENGINE_KEY"
HOST = "127.0.0.1"
PR_SET_PDEATHSIG = 1
ALL_LAYERS = 9999
ERRORS_ONLY = 1
POOLING_LAST = 3
LOG_S = 0.3
"""Without it 2 of 40 failing starts lost their reason on 2 CPUs kept busy by others, with it none."""

ENDED, LOAD_FAILED, NOT_INSTALLED, ORPHAN = 0, 1, 3, 4


def main(arguments: Sequence[str] | None = None) -> None:
    """Load the model, say READY, serve until standard input ends.  Never returns."""
    args = _parse(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not _bind_to(args.parent):
        os._exit(ORPHAN)
    # uvloop hands down whatever is inheritable, such as sockets that systemd opened.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    ready = os.dup(1)
    os.dup2(2, 1)
    server = _serve(args)
    port = server.listening_address.rpartition(":")[2]
    os.write(ready, f"READY {port}\n".encode())
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(ENDED)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="engine.py", description="Serve one GGUF file.")
    parser.add_argument("model", help="the file, of several parts the first")
    parser.add_argument("--alias", required=True, help="the name that answers carry")
    parser.add_argument("--context", type=int, default=0, help="tokens for each request; 0: the model's own")
    parser.add_argument("--parallel", type=int, default=1, help="requests at once")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--flash-attention", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--batch", type=int, default=0, help="tokens of a prompt computed at once")
    parser.add_argument("--gpu-layers", type=int, default=ALL_LAYERS)
    parser.add_argument("--cache-beside-cpu", action="store_true", help="keep the context in main memory")
    parser.add_argument("--rope-base", type=float, default=0, help="0: the model's own")
    parser.add_argument("--rope-scale", type=float, default=0, help="0: the model's own")
    parser.add_argument("--embedding", action="store_true", help="the file says how to pool by itself")
    parser.add_argument("--parent", type=int, required=True, help="the process to end with")
    return parser.parse_args(arguments)


def _bind_to(parent: int) -> bool:
    """Have the kernel end this process with *parent*; tell whether that is alive still."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Looked at only now: a parent that died before the call above sends no signal any more.
    return os.getppid() == parent


def _serve(args: argparse.Namespace) -> Any:
    """Return the running server, or end the process with the reason on standard error."""
    try:
        import xllamacpp
    except ImportError as exc:
        _fail(NOT_INSTALLED, f"the engine is not installed ({exc}); run: pip install 'dmap[engine]'")
    try:
        return xllamacpp.Server(_params(args, xllamacpp))
    except (RuntimeError, ValueError) as exc:
        _fail(LOAD_FAILED, f"{exc}")


def _fail(status: int, reason: str) -> NoReturn:
    os.write(2, f"dmap.engine: {reason}\n".encode())
    # A thread of llama.cpp writes its log, and neither os._exit nor sys.exit lets it get to the end.
    time.sleep(LOG_S)
    os._exit(status)


def _params(args: argparse.Namespace, xllamacpp: Any) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.model_alias = {args.alias}
    params.n_parallel = args.parallel
    params.n_ctx = args.context * args.parallel
    params.n_gpu_layers = args.gpu_layers
    params.no_kv_offload = args.cache_beside_cpu
    params.rope_freq_base, params.rope_freq_scale = args.rope_base, args.rope_scale
    if args.batch:
        params.n_batch = params.n_ubatch = args.batch
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    params.fit_params = False
    flash = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[args.flash_attention]
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{flash}")
    _set_embeddings(params, args)
    _close_doors(params, args.parallel)
    return params


def _set_embeddings(params: Any, args: argparse.Namespace) -> None:
    """
    Let chat models serve embeddings too: a chat's answers stay the same, its CPU time too within 10 %.

    They name no pooling, and of the kinds only "last" takes inputs longer than one batch.  A model made for
    embeddings has its own, and needs its whole input in one batch.
    """
    params.embedding = True
    if not args.embedding:
        params.pooling_type = POOLING_LAST
    elif args.context:
        params.n_batch = params.n_ubatch = args.context


def _close_doors(params: Any, parallel: int) -> None:
    """Leave nothing open but inference, /health and reading /props."""
    params.hostnames = [HOST]
    params.port = 0
    params.api_keys = [os.environ.pop(KEY_VARIABLE)]
    params.cors_origins = ""
    params.cors_credentials = False
    params.offline = True
    params.ui = False
    params.endpoint_slots = False
    params.endpoint_props = False
    params.endpoint_metrics = False
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.verbosity = ERRORS_ONLY
    # An idle kept-alive connection holds a thread of the server for 5 s.
    params.n_threads_http = max(64, 2 * parallel + 4)  # /health must not queue behind prompts


if __name__ == "__main__":
    main()
