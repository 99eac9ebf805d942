"""The files of `ops/`: each is what the program that reads it takes."""

import hashlib
import re
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from dmap.config import Device, Server, parse
from tests.programs import find, why_not

ROOT = Path(__file__).parents[1]
OPS = ROOT / "ops"
COMPOSE = sorted(OPS.glob("compose*.yaml"))
CONFIGS = sorted((OPS / "config").glob("*.yaml"))


def services(path: Path) -> dict[str, dict[str, Any]]:
    """The services of a compose file, with what they share."""
    return dict(yaml.safe_load(path.read_text())["services"])


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_it_is_a_compose_file(path: Path) -> None:
    """It fits the schema of the Compose specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_all_services_are_bounded(path: Path) -> None:
    """Each has a bound of memory and CPU and comes back after a crash; none is beyond loopback by itself."""
    for name, service in services(path).items():
        limits = service["deploy"]["resources"]["limits"]
        assert limits["memory"] and limits["cpus"] and service["restart"] == "unless-stopped", name
        assert all(":-127.0.0.1:" in port for port in service.get("ports", ())), name


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_no_service_has_rights_to_spare(path: Path) -> None:
    """Each has no capability, gains none, and has a bound of descriptors."""
    for name, service in services(path).items():
        assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"], name
        assert service["ulimits"]["nofile"] <= 65536, name


def test_what_haproxy_looks_up_once_stays() -> None:
    """The fronts and HAProxy have addresses that no other service of the fleet can be given."""
    fleet = yaml.safe_load((OPS / "compose.fleet.yaml").read_text())
    (pool,) = fleet["networks"]["default"]["ipam"]["config"]
    fixed = {
        name: ip_address(service["networks"]["default"]["ipv4_address"])
        for name, service in fleet["services"].items()
        if "networks" in service
    }

    assert set(fixed) == {"haproxy", "front1", "front2"}
    assert all(address in ip_network(pool["subnet"]) for address in fixed.values())
    assert not any(address in ip_network(pool["ip_range"]) for address in fixed.values())
    assert str(fixed["haproxy"]) in (OPS / "config" / "front.yaml").read_text()


def test_secrets_stay_out_of_git() -> None:
    """The file that docs/containers.md has the owner write them to is ignored."""
    page = (ROOT / "docs" / "containers.md").read_text()

    assert "cat > ops/.env" in page and "ops/.env" in (ROOT / ".gitignore").read_text().split()


def test_balancers_cut_nothing_that_dmap_lets_go_on() -> None:
    """An answer in one piece that waits and is computed for as long as dmap lets it comes through."""
    longest_s = Device(max_models=1).wait_s + Server().first_byte_s
    haproxy = re.findall(r"timeout (?:client|server) (\d+)m", (OPS / "haproxy.cfg").read_text())
    nginx = re.findall(r"proxy_(?:read|send)_timeout (\d+)m", (OPS / "nginx.conf").read_text())

    assert len(haproxy) == len(nginx) == 2
    assert all(int(minutes) * 60 >= 2 * longest_s for minutes in (*haproxy, *nginx))


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_what_it_mounts_is_there(path: Path) -> None:
    """Each file of ours that a container gets exists."""
    mounts = [mount for service in services(path).values() for mount in service.get("volumes", ())]
    ours = [mount.partition(":")[0] for mount in mounts if mount.startswith("./")]

    assert ours and [each for each in ours if not (OPS / each).exists()] == []


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_its_settings_are_told(path: Path) -> None:
    """Each variable that it takes is told at its head."""
    text = path.read_text()
    head = text.partition("\nname:")[0]
    secrets = re.findall(r"environment: ([A-Z_]+)}", text)
    taken = {*re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", text), *secrets}

    assert {name for name in taken if not re.search(rf"\b{name}\b", head)} == set()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_its_configurations(path: Path, tmp_path: Path) -> None:
    """Each is one, with what the compose file gives it."""
    text = path.read_text().replace("/models", str(tmp_path))
    given = dict.fromkeys(re.findall(r"\$\{(\w+)}", text), "secret")
    given |= {name: hashlib.sha256(name.encode()).hexdigest() for name in given if name.endswith("SHA256")}

    assert parse(text, given).listen.port == 8000


@pytest.mark.skipif(bool(why_not("promtool")), reason=why_not("promtool"))
def test_what_prometheus_reads() -> None:
    """Prometheus takes its configuration, and scrapes all that the fleet has of dmap."""
    path = OPS / "prometheus" / "prometheus.yml"
    command = [find("promtool") or "promtool", "check", "config", "--syntax-only", str(path)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    [job] = yaml.safe_load(path.read_text())["scrape_configs"]

    assert checked.returncode == 0, checked.stdout + checked.stderr
    dmaps = [name for name, each in services(OPS / "compose.fleet.yaml").items() if each["image"] == "dmap"]
    assert job["static_configs"] == [{"targets": [f"{name}:8000" for name in dmaps]}]


def test_the_image_has_what_it_is_made_of() -> None:
    """Whatever the Dockerfile copies is let through by .dockerignore, and exists."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    copied = {name for line in lines for name in line.split()}

    assert copied == let_through and all((ROOT / name).exists() for name in copied)
