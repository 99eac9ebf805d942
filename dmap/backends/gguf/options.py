"""What becomes of the options of a load: the arguments of an engine."""

from collections.abc import Mapping
from typing import Any


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `engine` for *options*, but for the context and threads."""
    flash = {None: "auto", True: "on", False: "off"}[options.get("flash_attention")]
    found = ["--flash-attention", flash]
    for option, argument in (
        ("eval_batch_size", "--batch"),
        ("rope_frequency_base", "--rope-base"),
        ("rope_frequency_scale", "--rope-scale"),
    ):
        if option in options:
            found += [argument, str(options[option])]
    if (layers := _layers(options)) is not None:
        found += ["--gpu-layers", str(layers)]
    return [*found, "--cache-beside-cpu"] if options.get("offload_kv_cache_to_gpu") is False else found


def _layers(options: Mapping[str, Any]) -> int | None:
    """Return how many layers go to the GPU; None for all."""
    if "gpu_layers" in options:
        return int(options["gpu_layers"])
    return 0 if options.get("gpu") in ("off", 0) and "gpu" in options else None
