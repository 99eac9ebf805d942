"""Models in real containers: podman runs them, and dmap starts and ends them by its commands."""

import asyncio
import io
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from tests.programs import why_not
from tests.test_process_backend import Box, box, make, said, until  # noqa: F401 - fixtures

ROOT = Path(__file__).parent.parent
PLACES = ("/usr", sys.base_prefix, str(ROOT))
LINKS = ("bin", "sbin", "lib", "lib64")
LIMITS = "--ulimit nofile=1024:1024 --ulimit nproc=4096:4096"

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(bool(why_not("podman")), reason=why_not("podman")),
]


@pytest.fixture
def podman() -> Generator[str]:
    """Podman with a store of its own, and in it the image `bare`: links into what is mounted at its start."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, io.BytesIO() as file:  # podman wants a short one
        at = f"--root {folder}/store --runroot {folder}/run --storage-driver vfs --cgroup-manager cgroupfs"
        command = f"podman {at}"
        with tarfile.open(fileobj=file, mode="w") as image:
            for name in LINKS:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
                image.addfile(link)
        subprocess.run([*command.split(), "import", "-", "bare"], input=file.getvalue(), check=True)
        tried = subprocess.run(
            [*command.split(), *f"run --rm --network host {LIMITS} -v /usr:/usr:ro bare true".split()],
            capture_output=True,
            text=True,
        )
        if tried.returncode:
            pytest.skip(f"podman runs no containers here: {tried.stderr.strip()}")
        yield command


@pytest.fixture
def contain(podman: str, box: Box) -> Callable[[str], None]:  # noqa: F811
    """Have a model be a real llama.cpp in a container."""

    def give(model: str) -> None:
        mounts = " ".join(f"-v {place}:{place}:ro" for place in (*PLACES, box.models))
        run = f"{podman} run --rm --name {model} --network host {LIMITS} {mounts} -e PYTHONPATH={ROOT} bare"
        serve = f"{shlex.quote(sys.executable)} -m tests.llama_serve {box.models}/tiny-{model}.gguf"
        box.give(model, f"{run} {serve} --port {{port}} -c 512", stop=f"{podman} stop -t 2 {model}")

    return give


def running(podman: str) -> list[str]:
    """List the containers that run."""
    listed = subprocess.run([*podman.split(), "ps", "--format", "{{.Names}}"], capture_output=True, text=True)
    return listed.stdout.split()


async def test_containers_are_switched(podman, box, contain):  # noqa: F811
    """A model in a container serves, is out when it is unloaded, and serves again."""
    for model in ("sea", "kitchen", "sea"):
        contain(model)
        await box.backend.load(model, {})
        assert (await said(box, model), running(podman)) == ({model}, [model])

        await box.backend.unload(model)

        assert running(podman) == []


async def test_a_client_that_is_killed_takes_its_container_along(podman, box, contain):  # noqa: F811
    """What the dead client of a container has left is stopped, and its name is free again."""
    told = asyncio.Event()
    box.backend.changed = told.set
    contain("sea")
    await box.backend.load("sea", {})

    os.kill(box.pid("sea"), 9)
    await told.wait()

    assert running(podman) == []
    await box.backend.load("sea", {})
    assert await said(box, "sea") == {"sea"}


@pytest.mark.parametrize("moment_s", [0, 0.1, 0.3, 0.6, 1])
async def test_a_cancelled_start_leaves_no_container(podman, box, contain, moment_s):  # noqa: F811
    """A load that is cancelled before or after the container is there leaves none."""
    contain("sea")
    load = asyncio.ensure_future(box.backend.load("sea", {}))
    await asyncio.wait([load], timeout=moment_s)

    load.cancel()
    await asyncio.wait([load])
    await box.backend.unload("sea")

    assert running(podman) == []


async def test_a_container_that_a_killed_dmap_left_is_stopped(podman, box, contain):  # noqa: F811
    """The first look stops it."""
    contain("sea")
    run = box.backend.commands["sea"].cmd
    left = await asyncio.create_subprocess_exec(*(word.replace("{port}", "9399") for word in run))
    await until(lambda: running(podman) == ["sea"])

    again = box.made()
    again.commands = box.backend.commands
    await again.models()
    await again.close()

    assert running(podman) == []
    await left.wait()
