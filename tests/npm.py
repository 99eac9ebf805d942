"""What npm installs for the tests of Node's clients: once for all workers of a run."""

import subprocess
from pathlib import Path

import pytest

from tests.programs import find

OPTIONS = (
    *("--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"),
    *("--fetch-retries=1", "--fetch-retry-mintimeout=1000"),
)
INSTALL_S = 300.0


def install(folder: Path, *packages: str) -> None:
    """Install *packages* into *folder*, or what its `package.json` names; skip where no registry has it."""
    command = (find("npm") or "npm", "install", *OPTIONS, *packages)
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=INSTALL_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as exc:
        lines = (exc.stderr or b"").decode().splitlines()
        errors = [line for line in lines if line.startswith("npm error")]
        pytest.skip(f"npm cannot install {packages or folder.name}: {'; '.join(errors[:3]) or exc}")
