"""The alerts and the dashboard: they hold to what they say, and ask for nothing that is not there."""

import functools
import json
import operator
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.grafana import wrong
from tests.programs import find, why_not

OPS = Path(__file__).parent.parent / "ops"
ALERTS = OPS / "prometheus" / "alerts.yml"
BOARD = OPS / "grafana" / "dmap.json"
NAME = re.compile(r"\b(?:dmap|process)_\w+")

needs_promtool = pytest.mark.skipif(bool(why_not("promtool")), reason=why_not("promtool"))


def alerts() -> list[dict[str, Any]]:
    """Return the rules."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Return the dashboard's panels."""
    return json.loads(BOARD.read_text())["panels"]  # type: ignore[no-any-return]


def expressions() -> Iterator[str]:
    """Yield every query of the alerts and of the dashboard."""
    yield from (rule["expr"] for rule in alerts())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])
    yield from (one["query"]["query"] for one in variables() if one["type"] == "query")


def variables() -> list[dict[str, Any]]:
    return json.loads(BOARD.read_text())["templating"]["list"]  # type: ignore[no-any-return]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool beside the rules."""
    command = (str(find("promtool")), *arguments)
    return subprocess.run(command, cwd=ALERTS.parent, capture_output=True, text=True, timeout=60)


@needs_promtool
def test_the_rules_are_valid() -> None:
    """Prometheus accepts the rules."""
    done = promtool("check", "rules", ALERTS.name)

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_rules_fire_when_they_should() -> None:
    """Each rule fires in the case it is for, and not in the one beside it."""
    done = promtool("test", "rules", "alerts_test.yml")

    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_the_queries_are_valid(expression: str, tmp_path: Path) -> None:
    """Prometheus can read every query, those of the dashboard with its variables filled in."""
    query = expression.replace("$__rate_interval", "5m").replace("$model", ".*")
    query = re.sub(r"label_values\((\w+), \w+\)", r"\1", query)
    rules = {"groups": [{"name": "g", "rules": [{"record": "a:b", "expr": query}]}]}
    (tmp_path / "one.yml").write_text(yaml.safe_dump(rules))

    done = promtool("check", "rules", str(tmp_path / "one.yml"))

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    """Each rule has a case in which it fires."""
    cases = yaml.safe_load((ALERTS.parent / "alerts_test.yml").read_text())["tests"]

    fired = {one["alertname"] for case in cases for one in case["alert_rule_test"] if one["exp_alerts"]}

    assert fired == {rule["alert"] for rule in alerts()}


async def test_what_is_asked_for_is_there(proxy: Any) -> None:
    """Every name that the alerts and the dashboard ask for is on the page of a running daemon."""
    async with aiohttp.ClientSession() as session, session.get(f"{proxy.url}/metrics") as answer:
        page = await answer.text()
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", page, re.MULTILINE))
    ends = {"histogram": ("_bucket", "_count", "_sum")}
    there = {name + end for name, kind in kinds.items() for end in ends.get(kind, ("",))}

    asked = {name for expression in expressions() for name in NAME.findall(expression)}

    assert asked - there == set()
    assert len(asked) > 20


class TestTheDashboard:
    def test_it_can_be_imported(self) -> None:
        """The dashboard has what Grafana needs to import it, and lets one choose the data source."""
        board = json.loads(BOARD.read_text())

        assert (board["uid"], board["title"], board["schemaVersion"]) == ("dmap", "dmap", 39)
        assert [(one["name"], one["type"]) for one in variables()] == [
            ("datasource", "datasource"),
            ("model", "query"),
        ]
        assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}

    def test_its_panels_do_not_overlap(self) -> None:
        """Each panel has a title, an explanation, a unit, and a place of its own."""
        places = [
            (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
            for panel in panels()
            for x in range(panel["gridPos"]["w"])
            for y in range(panel["gridPos"]["h"])
        ]

        assert len(places) == len(set(places))
        assert max(x for x, _ in places) < 24
        assert all(panel["title"] and panel["description"] for panel in panels())
        assert len({panel["id"] for panel in panels()}) == len(panels())


def test_grafana_takes_the_board() -> None:
    """Grafana's own types (11.6) know every member of the board, and take its value."""
    assert wrong(json.loads(BOARD.read_text())) == []


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        (("refresh",), 30, "board.refresh: 30"),
        (("graphToolTip",), 1, "board.graphToolTip: 1"),
        (("panels", 0, "gridPos", "w"), "8", "w: '8'"),
        (("panels", 0, "targets", 0, "legend"), "{{model}}", "legend: '{{model}}'"),
        (("panels", 0, "fieldConfig", "defaults", "custom", "showPoints"), "no", "show_points: 'no'"),
    ],
)
def test_what_grafana_would_not_take(path: tuple[Any, ...], value: Any, found: str) -> None:
    """A member of another name, or with another type, is found."""
    board = json.loads(BOARD.read_text())
    *steps, last = path
    functools.reduce(operator.getitem, steps, board)[last] = value

    assert any(found in each for each in wrong(board))
