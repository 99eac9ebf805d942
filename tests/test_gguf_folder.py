"""Which models a folder holds: whatever else lies there, and however deep."""

from pathlib import Path

import pytest

from dmap.backends.gguf.folder import Folder
from tests.gguf_headers import LLAMA, gguf, number, text, truth
from tests.projectors import make_projector

MODEL = gguf(*LLAMA)
EYES = gguf(
    text("general.architecture", "clip"),
    text("general.type", "mmproj"),
    number("clip.vision.projection_dim", 256),
    truth("clip.has_vision_encoder"),
)


def put(folder: Path, *names: str, content: bytes = MODEL) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def ids(folder: Path) -> list[str]:
    return list(Folder(folder).scan().models)


def skipped(folder: Path) -> dict[str, str]:
    return {str(Path(path).relative_to(folder)): why for path, why in Folder(folder).scan().skipped.items()}


def test_ids_are_the_place_and_the_stem(tmp_path):
    """A model is called by its file's name without suffix, behind the folders that it is in; links count."""
    put(tmp_path, "a.gguf", "sub/b.GGUF", "sub/deeper/c.gguf", "mmproj-a.gguf", "d.bin")
    put(tmp_path, ".e.gguf", ".f/g.gguf")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "sub" / "deeper" / "c.gguf")
    (tmp_path / "dangling.gguf").symlink_to(tmp_path / "nowhere")

    assert ids(tmp_path) == ["a", "link", "sub/b", "sub/deeper/c"]


def test_parts_are_one_model(tmp_path):
    """A model in several files has the id without part numbers and the size of all of them."""
    put(tmp_path, "m-00001-of-00002.gguf")
    put(tmp_path, "m-00002-of-00002.gguf", content=bytes(1000))

    [(model, file)] = Folder(tmp_path).scan().models.items()

    assert (model, file.path.name) == ("m", "m-00001-of-00002.gguf")
    assert file.file_bytes == len(MODEL) + 1000


def test_an_incomplete_model_is_left_out_and_told(tmp_path):
    """A download of which parts are missing is no model yet, and the reason says so."""
    put(tmp_path, "m-00001-of-00003.gguf", "m-00003-of-00003.gguf", "orphan-00002-of-00002.gguf")

    assert ids(tmp_path) == []
    assert skipped(tmp_path) == {
        "m-00001-of-00003.gguf": "2 of its 3 parts are there",
        "orphan-00002-of-00002.gguf": "1 of its 2 parts are there",
    }


def test_a_model_in_parts_comes_before_the_same_in_one(tmp_path):
    """Where both lie there they have one id, and only one of them is that model."""
    put(tmp_path, "m.gguf", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf")

    assert len(Folder(tmp_path).scan().models["m"].parts) == 2
    assert skipped(tmp_path) == {"m.gguf": "m-00001-of-00002.gguf is called so already"}


def test_what_is_no_model_is_left_out(tmp_path):
    """Adapters are told, projectors are none by their headers, and names that nobody can send are told."""
    put(tmp_path, "lora.gguf", content=gguf(*LLAMA, text("general.type", "adapter")))
    put(tmp_path, "eyes.gguf", content=EYES)
    put(tmp_path, "mmproj-broken.gguf", content=b"")
    put(tmp_path, "two\nlines.gguf", "x" * 200 + "/" + "y" * 200 + "/" + "z" * 200 + ".gguf")

    assert ids(tmp_path) == []
    assert sorted(skipped(tmp_path).values()) == [
        "it is no model, but of the type 'adapter'",
        "its name is that of a projector, but its header is not",
        "no client could send its name",
        "no client could send its name",
    ]


def test_a_changed_file_is_read_again(tmp_path):
    """A header is remembered for one version of its file only."""
    folder = Folder(tmp_path)
    put(tmp_path, "m.gguf")
    assert folder.scan().models["m"].context_length(10_000) == 8192

    shorter = gguf(text("general.architecture", "llama"), number("llama.context_length", 9))
    put(tmp_path, "m.gguf", content=shorter)

    assert folder.scan().models["m"].context_length(10_000) == 9


def test_a_projector_is_a_part_of_its_model(tmp_path):
    """A model with a projector takes images, and its size is that of both."""
    put(tmp_path, "p/r/m-Q4_K_M.gguf")
    put(tmp_path, "p/r/mmproj-F16.gguf", content=EYES)

    file = Folder(tmp_path).scan().models["p/r/m-Q4_K_M"]

    assert file.vision
    assert file.file_bytes == len(MODEL) + len(EYES)
    assert file.listed()["capabilities"] == {"vision": True}


def test_a_model_can_do_without_a_broken_projector(tmp_path):
    """Half a download of eyes leaves the model as it was, and is told; once it is whole the model sees."""
    folder = Folder(tmp_path)
    whole = make_projector(tmp_path / "mmproj-f32.gguf", 256).read_bytes()
    put(tmp_path, "m.gguf")
    put(tmp_path, "mmproj-f32.gguf", content=whole[:-1000])

    before = folder.scan()
    assert not before.models["m"].vision
    assert "mmproj-f32.gguf is cut off" in before.skipped[str(tmp_path / "mmproj-f32.gguf")]

    put(tmp_path, "mmproj-f32.gguf", content=whole)
    assert folder.scan().models["m"].vision


@pytest.mark.parametrize("name", ["m.gguf", "m", "r/m.gguf", "p/r/m.gguf", "p/r"])
def test_names_come_with_the_models(tmp_path, name):
    """A model deep in a tree has shorter names, and those of its file."""
    put(tmp_path, "p/r/m.gguf")

    assert name in Folder(tmp_path).scan().models["p/r/m"].names
