"""Looking for files at any depth: caches of other programs, links in circles, and trees without an end."""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmap.backends.gguf.tree import DEEPEST, Bounds, Tree

OLD, NEW = "a" * 40, "b" * 40
NOBODY = 65_534


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def settle(*folders: Path) -> None:
    """Have *folders* look as if they had not changed for long."""
    for folder in folders:
        os.utime(folder, (1e9, 1e9))


def found(folder: Path | Tree) -> list[str]:
    """Return the files by the places that they are known by."""
    look = (folder if isinstance(folder, Tree) else Tree(folder)).look()
    return ["/".join((*file.place, file.name)) for file in look.files]


def snapshot(hub: Path, repository: str, revision: str, *names: str) -> Path:
    """Lay files as huggingface_hub does: blobs by their hash, and links to them."""
    folder = hub / repository / "snapshots" / revision
    for name in names:
        put(hub / repository / "blobs", f"{revision}{len(name)}")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (2 + name.count("/"))
        path.symlink_to(f"{up}blobs/{revision}{len(name)}")
    return folder


def refer(hub: Path, repository: str, revision: str) -> None:
    refs = hub / repository / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(revision)


def test_files_are_found_at_any_depth(tmp_path):
    """Flat folders, LM Studio's and llama.cpp's are all read; files right there come first."""
    put(tmp_path, "org_repo_m.gguf", "publisher/repo/m.GGUF", "publisher/repo/README.md", "sub/m.gguf")

    assert found(tmp_path) == ["org_repo_m.gguf", "sub/m.gguf", "publisher/repo/m.GGUF"]


def test_hugging_face_s_cache_has_repositories(tmp_path):
    """A file is known by its repository, not by its revision; links to blobs are followed."""
    snapshot(tmp_path, "models--org--some--repo", NEW, "m.gguf", "Q8_0/n.gguf", "config.json")
    refer(tmp_path, "models--org--some--repo", NEW)
    put(tmp_path, "datasets--org--x/README.md")

    assert found(tmp_path) == ["org/some/repo/m.gguf", "org/some/repo/Q8_0/n.gguf"]


def test_the_revision_that_main_names_counts(tmp_path):
    """Of several snapshots only one is looked at, and another as soon as `refs/main` names that."""
    for revision in (OLD, NEW):
        snapshot(tmp_path, "models--org--m", revision, f"{revision[0]}.gguf")
    look = Tree(tmp_path)

    refer(tmp_path, "models--org--m", OLD)
    assert found(look) == ["org/m/a.gguf"]
    refer(tmp_path, "models--org--m", NEW)
    assert found(look) == ["org/m/b.gguf"]


@pytest.mark.parametrize("main", ["", "../../..", "c" * 40, "\0"])
def test_without_a_valid_ref_the_newest_revision_counts(tmp_path, main):
    """What `refs/main` says is compared with the snapshots that are there, and never a path."""
    settle(snapshot(tmp_path, "models--org--m", NEW, "old.gguf"))
    snapshot(tmp_path, "models--org--m", OLD, "new.gguf")
    refer(tmp_path, "models--org--m", main)

    assert found(tmp_path) == ["org/m/new.gguf"]


def test_one_repository_may_be_the_folder(tmp_path):
    """The folder that is named may itself be a repository in Hugging Face's cache."""
    snapshot(tmp_path, "models--org--m", NEW, "m.gguf")

    assert found(tmp_path / "models--org--m") == ["m.gguf"]


def test_circles_end(tmp_path):
    """A link to a folder above is not followed again, and one to itself leads nowhere."""
    put(tmp_path, "a/m.gguf")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "self.gguf").symlink_to("self.gguf")
    (tmp_path / "again").symlink_to("a")

    assert found(tmp_path) == ["a/m.gguf"]


def test_links_to_folders_elsewhere_are_followed(tmp_path):
    """A folder of links is a collection, known by the links' names."""
    put(tmp_path / "elsewhere", "m.gguf")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "disk").symlink_to(tmp_path / "elsewhere")

    assert found(tmp_path / "models") == ["disk/m.gguf"]


def test_a_link_that_leads_somewhere_later_is_seen(tmp_path):
    """A disk that is mounted after the start is looked at, though its link has not changed."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "disk").symlink_to(tmp_path / "elsewhere")
    settle(tmp_path / "models")
    look = Tree(tmp_path / "models")
    assert found(look) == []

    put(tmp_path / "elsewhere", "m.gguf")

    assert found(look) == ["disk/m.gguf"]


def test_depth_is_bounded(tmp_path):
    """Files more than so many folders deep are not found."""
    deepest = "/".join("d" * DEEPEST)
    put(tmp_path, f"{deepest}/m.gguf", f"{deepest}/d/n.gguf")

    assert found(tmp_path) == [f"{deepest}/m.gguf"]


@pytest.mark.parametrize("bounds", [Bounds(files=3), Bounds(entries=3), Bounds(folders=3)])
def test_a_bound_that_is_reached_is_told(tmp_path, bounds):
    """What lies beyond a bound is left out, and the folder says so; the files found before stay."""
    put(tmp_path, "a/m.gguf", "b/m.gguf", "c/m.gguf", "d/m.gguf")

    look = Tree(tmp_path, bounds).look()

    assert 0 <= len(look.files) <= 3
    assert list(look.skipped) == [str(tmp_path)]
    assert "3" in look.skipped[str(tmp_path)]


@pytest.fixture
def open_folder():
    """A folder that everybody may read; `tmp_path` is its owner's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def as_nobody():
    """Go on without the rights of root, which reads everything."""
    mine = os.geteuid()
    os.seteuid(NOBODY if mine == 0 else mine)
    try:
        yield
    finally:
        os.seteuid(mine)


def test_an_unreadable_folder_is_told(open_folder):
    """A folder that may not be read is left out with the reason, and the others are read."""
    put(open_folder, "a/m.gguf", "b/m.gguf")
    (open_folder / "a").chmod(0)

    with as_nobody():
        look = Tree(open_folder).look()

    assert [file.name for file in look.files] == ["m.gguf"]
    assert look.skipped == {str(open_folder / "a"): "cannot be read: Permission denied"}


def test_a_folder_that_is_gone_is_told(tmp_path):
    """Without the first folder there is nothing to tell."""
    with pytest.raises(FileNotFoundError):
        Tree(tmp_path / "nowhere").look()


def test_what_comes_and_goes_is_seen_at_once(tmp_path):
    """A look finds what has changed since the last one, also right after it and in folders long settled."""
    put(tmp_path, "sub/a.gguf")
    settle(tmp_path / "sub", tmp_path)
    look = Tree(tmp_path)
    assert found(look) == ["sub/a.gguf"]

    put(tmp_path, "sub/b.gguf", "more/c.gguf")
    assert found(look) == ["more/c.gguf", "sub/a.gguf", "sub/b.gguf"]
    put(tmp_path, "sub/d.gguf")
    (tmp_path / "sub" / "a.gguf").unlink()
    assert found(look) == ["more/c.gguf", "sub/b.gguf", "sub/d.gguf"]


def test_what_is_no_file_is_not_opened(tmp_path):
    """A pipe with a model's name would keep its reader for ever."""
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "link.gguf").symlink_to("pipe.gguf")
    (tmp_path / "folder.gguf").mkdir()

    assert found(tmp_path) == []


def test_a_pipe_for_a_ref_names_nothing(tmp_path):
    """A pipe where Hugging Face's cache has a file does not hold the look; the newest revision counts."""
    repository = tmp_path / "models--org--name"
    model = repository / "snapshots" / "abc" / "m.gguf"
    for folder in (model.parent, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True)
    model.touch()
    os.mkfifo(repository / "refs" / "main")

    assert found(tmp_path) == ["org/name/m.gguf"]
