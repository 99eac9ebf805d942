"""
The programs of Debian that some tests need, and the package of each.

Run by a bare `python3`, it prints the packages that are missing, for `make test-deps`.  A test that needs
a missing program is skipped; where `DMAP_TEST_ALL` is set, as `.ci/run` does, that is a failure.
"""

import os
import shutil

PACKAGES = {
    "curl": "curl",
    "haproxy": "haproxy",
    "nginx": "nginx-light",
    "node": "nodejs",
    "npm": "npm",
    "openssl": "openssl",
    "podman": "podman",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "redis-server": "redis-server",
    "shellcheck": "shellcheck",
    "systemd-analyze": "systemd",
    "systemd-socket-activate": "systemd",
}


def find(program: str) -> str | None:
    """Return the path of *program*, also of one that only root has in its `PATH`."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def why_not(*programs: str) -> str:
    """Return which of *programs* are missing, as the reason of a skip; empty if none is."""
    missing = [program for program in programs if find(program) is None]
    return f"no {', '.join(missing)} here: see make test-deps" if missing else ""


if __name__ == "__main__":
    print(*sorted({package for program, package in PACKAGES.items() if find(program) is None}))
