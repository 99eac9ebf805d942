"""The options of a load that an engine can be told."""

from collections.abc import Callable, Mapping
from typing import Any

from dmap.errors import LoadFailed


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_flag(value: Any) -> bool:
    return type(value) is bool


def _is_rope(value: Any) -> bool:
    return type(value) in (int, float) and value >= 0


def _is_whole(value: Any) -> bool:
    """Whether all layers go to the GPU, or none: what llama.cpp can be told without counting them."""
    return value in ("off", "max") or (type(value) in (int, float) and value in (0, 1))


_POSSIBLE: Mapping[str, Callable[[Any], bool]] = {
    "context_length": _is_count,
    "flash_attention": _is_flag,
    "eval_batch_size": _is_count,
    "offload_kv_cache_to_gpu": _is_flag,
    "gpu": _is_whole,
    "gpu_layers": lambda value: type(value) is int and value >= 0,
    "cpu_threads": _is_count,
    "rope_frequency_base": _is_rope,
    "rope_frequency_scale": _is_rope,
}


def checked(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the *options* that are set; raises `LoadFailed` for what an engine cannot be told."""
    for option, value in options.items():
        if option not in _POSSIBLE:
            known = ", ".join(_POSSIBLE)
            raise LoadFailed(f"cannot load model {model!r}: unknown option {option!r}; known are {known}")
        if not _POSSIBLE[option](value):
            raise LoadFailed(f"cannot load model {model!r}: {option} may not be {value!r}")
    return dict(options)


def taken(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of *options* that an engine can be told."""
    return {name: value for name, value in options.items() if name in _POSSIBLE and _POSSIBLE[name](value)}


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
