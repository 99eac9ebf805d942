"""
The program of the embedded engine's children: one GGUF file served over HTTP on loopback by xllamacpp.

`python engine.py SETTINGS`, by its path: it imports nothing of dmap.  The settings are one JSON object
(`backend.GGUFBackend` writes it): what to serve, and the options of the load by their names in the
configuration.  The API key comes in the environment (`KEY_VARIABLE`), where other users cannot read it.  When
the model answers, one line `READY <port>` goes to standard output, and nothing else ever does: whatever
llama.cpp prints is sent to standard error.  It tells what it does while it loads, and then errors alone.

Without settings it only looks: it writes a line `ENGINE <version>`, and a line `DEVICE <JSON>` for each
device that llama.cpp sees.  `look` is who asks.

There is no graceful end, on purpose.  Freeing a llama.cpp server waits for its streams (up to 30 s), so
SIGTERM keeps its default and ends the process on the spot, also during a load, where Python could not run a
signal handler.  SIGINT is ignored: Ctrl-C goes to every process of a terminal, and the parent decides.

It ends with its parent, however that dies.  While a model loads no Python runs, so the kernel sends the
SIGKILL that `process/launch.py` has asked for; afterwards the end of standard input tells as well.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

KEY_VARIABLE = "DMAP_ENGINE_KEY"
HOST = "127.0.0.1"
READY, ENGINE, DEVICE = "READY", "ENGINE", "DEVICE"
ALL_LAYERS = 9999
BY_MODEL = 0
ERRORS_ONLY, LOADING_TOO = 1, 4
POOLING_LAST = 3
LOG_S = 0.3
"""Without it 2 of 40 failing starts lost their reason on 2 CPUs kept busy by others, with it none."""

ENDED, LOAD_FAILED, UNUSABLE = 0, 1, 3

INSTALL = "run: .venv/bin/pip install -e '.[engine]' (a service: see docs/service.md)"
LEAST = {"model": "", "alias": "", "parallel": 1, "context_length": 128, "cpu_threads": 1, "embedding": True}
"""Settings that serve nothing, to see whether an engine has a word for each."""


def main(settings: Mapping[str, Any]) -> NoReturn:
    """Load the model, say READY, serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ready = os.dup(1)
    os.dup2(2, 1)
    xllamacpp = _engine()
    server = _serve(settings, xllamacpp)
    port = server.listening_address.rpartition(":")[2]
    os.write(ready, f"{READY} {port}\n".encode())
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(ENDED)


def look() -> NoReturn:
    """Tell which engine this is and which devices it sees; a driver may hang or abort over the second."""
    told = os.dup(1)
    os.dup2(2, 1)
    xllamacpp = _engine()
    name = f"xllamacpp {getattr(xllamacpp, '__version__', '(of no version)')}"
    try:
        os.environ[KEY_VARIABLE] = ""
        _params(LEAST, xllamacpp)
    except (AttributeError, TypeError, ValueError) as exc:
        _fail(UNUSABLE, f"{name} is not one that dmap can use ({exc}); {INSTALL}")
    os.write(told, f"{ENGINE} {name}\n".encode())
    for device in xllamacpp.get_device_info():
        words = {"name": device["name"], "what": device["description"][:60]}
        numbers = {"bytes": device["memory_total"], "type": device["type"].name.rpartition("_")[2]}
        os.write(told, f"{DEVICE} {json.dumps(words | numbers)}\n".encode())
    os._exit(ENDED)


def _engine() -> Any:
    """Return the module, or end the process with what to do on standard error."""
    try:
        import xllamacpp
    except ImportError as exc:
        if isinstance(exc, ModuleNotFoundError) and exc.name == "xllamacpp":
            _fail(UNUSABLE, f"the engine is not installed; {INSTALL}")
        _fail(
            UNUSABLE, f"the engine cannot be imported ({exc}); docs/gpu.md tells which build fits this host"
        )
    return xllamacpp


def _serve(settings: Mapping[str, Any], xllamacpp: Any) -> Any:
    """Return the running server, or end the process with the reason on standard error."""
    params, threshold = _params(settings, xllamacpp), _threshold(xllamacpp)
    params.verbosity = LOADING_TOO if threshold is not None else ERRORS_ONLY
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as exc:
        _fail(LOAD_FAILED, f"{exc}")
    if threshold is not None:
        threshold.value = ERRORS_ONLY
    return server


def _threshold(xllamacpp: Any) -> ctypes.c_int | None:
    """
    Return llama.cpp's own bound of what it logs, which no function of the wheel sets once a server runs.

    It is a global variable (common/log.cpp).  Where a build hides it the engine never tells of its loads.
    """
    with contextlib.suppress(AttributeError, OSError, ValueError):
        library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
        return ctypes.c_int.in_dll(library, "common_log_verbosity_thold")
    return None


def _fail(status: int, reason: str) -> NoReturn:
    os.write(2, f"dmap.engine: {reason}\n".encode())
    # A thread of llama.cpp writes its log, and neither os._exit nor sys.exit lets it get to the end.
    time.sleep(LOG_S)
    os._exit(status)


def _params(settings: Mapping[str, Any], xllamacpp: Any) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.mmproj.path = settings.get("projector", "")
    params.model_alias = {settings["alias"]}
    params.n_parallel = settings["parallel"]
    params.n_ctx = settings["context_length"] * settings["parallel"]
    params.n_gpu_layers = settings.get("gpu_layers", 0 if settings.get("gpu") in ("off", 0) else ALL_LAYERS)
    params.mmproj_use_gpu = params.n_gpu_layers != 0
    params.no_kv_offload = settings.get("offload_kv_cache_to_gpu") is False
    params.rope_freq_base = settings.get("rope_frequency_base", BY_MODEL)
    params.rope_freq_scale = settings.get("rope_frequency_scale", BY_MODEL)
    if "eval_batch_size" in settings:
        params.n_batch = params.n_ubatch = settings["eval_batch_size"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["cpu_threads"]
    params.fit_params = False
    flash = {None: "AUTO", True: "ENABLED", False: "DISABLED"}[settings.get("flash_attention")]
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{flash}")
    _set_embeddings(params, settings)
    _close_doors(params, settings["parallel"])
    return params


def _set_embeddings(params: Any, settings: Mapping[str, Any]) -> None:
    """
    Let chat models serve embeddings too: a chat's answers stay the same, its CPU time too within 10 %.

    They name no pooling, and of the kinds only "last" takes inputs longer than one batch.  A model made for
    embeddings has its own, and needs its whole input in one batch.
    """
    params.embedding = True
    if settings["embedding"]:
        params.n_batch = params.n_ubatch = settings["context_length"]
    else:
        params.pooling_type = POOLING_LAST


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
    # An idle kept-alive connection holds a thread of the server for 5 s.
    params.n_threads_http = max(64, 2 * parallel + 4)  # /health must not queue behind prompts


if __name__ == "__main__":
    main(json.loads(sys.argv[1])) if sys.argv[1:] else look()
