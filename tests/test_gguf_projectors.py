"""Which projector belongs to which model, where nothing says so for certain."""

from pathlib import Path

import pytest

from dmap.backends.gguf.file import ModelFile, Part
from dmap.backends.gguf.header import PROJECTOR, UNREADABLE, Header
from dmap.backends.gguf.projectors import with_projectors

LLAMA = Header(8192, 100, architecture="llama", width=64)
QWEN = Header(8192, 200, architecture="qwen2", width=64)
EYES = Header(type=PROJECTOR, architecture="clip", width=64, sees=True)
HALF = Header(type=PROJECTOR, architecture="clip", width=64, sees=True, half=True)


def file(model: str, header: Header = LLAMA) -> ModelFile:
    *place, name = model.split("/")
    return ModelFile(model, tuple(place), (Part(Path(f"{name}.gguf"), 1, 1),), header)


def paired(*files: ModelFile) -> dict[str, str | None]:
    """Return the projector of each model."""
    return {each.id: each.projector and each.projector.id for each in with_projectors(files)}


def test_a_repository_s_projector_is_that_of_all_its_quantisations():
    """In a folder with one model the names do not matter."""
    files = file("p/r/m-Q4_K_M"), file("p/r/m-Q8_0"), file("p/r/mmproj-F16", EYES)

    assert paired(*files) == {"p/r/m-Q4_K_M": "p/r/mmproj-F16", "p/r/m-Q8_0": "p/r/mmproj-F16"}


def test_among_several_models_the_name_decides():
    """In a flat folder a projector is that of the model whose name it bears, and of nobody else."""
    files = file("sea-7b-Q4_K_M"), file("hill-7b-Q4_K_M", QWEN), file("mmproj-sea-7b-f16", EYES)

    assert paired(*files) == {"sea-7b-Q4_K_M": "mmproj-sea-7b-f16", "hill-7b-Q4_K_M": None}


@pytest.mark.parametrize(
    "name", ["mmproj-sea-7b-f16", "sea-7b.mmproj-f16", "sea-7b-mmproj-model-Q8_0", "mmproj-model-sea-7B-BF16"]
)
def test_projectors_are_named_in_many_ways(name):
    """The word mmproj stands before or behind the model's name."""
    assert paired(file("Sea-7B.Q4_K_M"), file("hill", QWEN), file(name, EYES))["Sea-7B.Q4_K_M"] == name


def test_nobody_is_guessed_among_several_models():
    """A projector without a name is nobody's where several models lie."""
    assert paired(file("sea"), file("hill", QWEN), file("mmproj-f16", EYES)) == {"sea": None, "hill": None}


def test_a_projector_of_another_width_is_not_taken():
    """The engine would refuse to load the model with it."""
    wide = Header(architecture="llama", width=96)

    assert paired(file("sea", wide), file("mmproj-sea", EYES)) == {"sea": None}


def test_of_several_the_name_and_then_sixteen_bits_are_taken():
    """Repositories come with several forms of one projector; 16 bits is the one for every device."""
    files = file("sea-q4"), file("mmproj-BF16", EYES), file("mmproj-F16", HALF), file("mmproj-F32", EYES)

    assert paired(*files) == {"sea-q4": "mmproj-F16"}
    assert paired(*files, file("mmproj-sea-bf16", EYES)) == {"sea-q4": "mmproj-sea-bf16"}


def test_a_folder_called_by_a_quantisation_belongs_to_its_repository():
    """A model in parts lies in a folder of its own, the projector above."""
    files = file("p/r/Q8_0/m"), file("p/r/UD-Q4_K_XL/m"), file("p/r/mmproj-F16", EYES)

    assert set(paired(*files).values()) == {"p/r/mmproj-F16"}


def test_a_folder_above_gives_nothing():
    """Elsewhere a projector counts for its own folder only."""
    assert paired(file("p/r/m"), file("mmproj-F16", EYES)) == {"p/r/m": None}


def test_what_cannot_be_read_takes_nothing_from_others():
    """A broken file beside a model neither gets its projector nor makes two models of one."""
    files = file("sea"), file("broken", UNREADABLE), file("mmproj-f16", EYES)

    assert paired(*files) == {"sea": "mmproj-f16", "broken": None}


def test_embedding_models_take_none():
    """A model that only embeds has no use for images."""
    assert paired(file("e", Header(embedding=True, width=64)), file("mmproj-e", EYES)) == {"e": None}
