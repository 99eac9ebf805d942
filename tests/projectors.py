"""A tiny projector: eyes with random weights, so that a tiny model answers about an image, in nonsense."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

WIDTH, INNER, LAYERS, HEADS, SIDE, PATCH = 32, 64, 2, 2, 28, 14
"""Of LLaVA's form: images of 28 by 28, in four patches."""


def make_projector(path: Path, model_width: int) -> Path:
    """Write a projector for models with embeddings of *model_width*; return *path*."""
    writer = GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_file_type(0)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_projection_dim(model_width)
    writer.add_vision_image_size(SIDE)
    writer.add_vision_patch_size(PATCH)
    writer.add_vision_embedding_length(WIDTH)
    writer.add_vision_feed_forward_length(INNER)
    writer.add_vision_block_count(LAYERS)
    writer.add_vision_head_count(HEADS)
    writer.add_vision_attention_layernorm_eps(1e-5)
    writer.add_vision_image_mean([0.5] * 3)
    writer.add_vision_image_std([0.5] * 3)
    for name, values in _tensors(model_width).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(model_width: int) -> dict[str, np.ndarray]:
    """Return the tensors by llama.cpp's names (tools/mtmd/clip-impl.h)."""
    random = np.random.default_rng(21)

    def noise(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32) * np.float32(shape[-1] ** -0.5)

    shapes = {"mm.0": (model_width, WIDTH), "mm.2": (model_width, model_width)}
    tensors = {
        "v.patch_embd.weight": noise(WIDTH, 3, PATCH, PATCH),
        "v.position_embd.weight": noise((SIDE // PATCH) ** 2, WIDTH),
    }
    for layer in range(LAYERS):
        block = f"v.blk.{layer}"
        shapes |= {f"{block}.{name}": (WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_out")}
        shapes |= {f"{block}.ffn_up": (INNER, WIDTH), f"{block}.ffn_down": (WIDTH, INNER)}
        for norm in ("ln1", "ln2"):
            tensors[f"{block}.{norm}.weight"] = np.ones(WIDTH, np.float32)
            tensors[f"{block}.{norm}.bias"] = np.zeros(WIDTH, np.float32)
    for name, shape in shapes.items():
        tensors[f"{name}.weight"] = noise(*shape)
        tensors[f"{name}.bias"] = np.zeros(shape[0], np.float32)
    return tensors
