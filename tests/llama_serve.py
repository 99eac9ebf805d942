"""
A small program that serves one GGUF file by llama.cpp's own HTTP server, as its `llama-server` does.

`python -m tests.llama_serve FILE --port PORT -c CONTEXT -np SLOTS`.  It prints what it does, heeds SIGTERM,
and ends with 1 where the file cannot be served.
"""

import argparse
import os
import signal
import sys

import xllamacpp


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--alias", default="")
    parser.add_argument("-c", type=int, default=2048)
    parser.add_argument("-np", type=int, default=1)
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--mmproj", default="")
    options = parser.parse_args()
    print(f"serving {options.file} at {options.port}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        server = xllamacpp.Server(params_of(options))
    except RuntimeError as exc:
        sys.exit(str(exc))
    print(f"listening at {server.listening_address}", flush=True)
    while True:
        signal.pause()


def params_of(options: argparse.Namespace) -> "xllamacpp.CommonParams":
    """Return *options* in xllamacpp's form."""
    params = xllamacpp.CommonParams()
    params.model.path = options.file
    params.model_alias = {options.alias or options.file}
    params.hostnames, params.port = ["127.0.0.1"], options.port
    params.n_ctx, params.n_parallel = options.c, options.np
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.embedding = options.embeddings
    params.mmproj.path = options.mmproj
    params.endpoint_props = True
    params.fit_params, params.offline, params.ui, params.verbosity = False, True, False, 2
    params.cache_ram_mib = 0
    params.n_threads_http = 64
    return params


if __name__ == "__main__":
    main()
