"""Every query of the dashboard returns data of a real service, as Grafana would ask for it."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.prometheus_process import Prometheus
from tests.deploy.watched import Watched

FILE = Path(__file__).parents[3] / "deploy/grafana/numoe.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]  # rows too
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
MOST_BYTES = 40 * 1024
# What Grafana makes of the dashboard's last hour, where its data source says that it scrapes every 15 s.
INTERVALS = {"__rate_interval": "1m0s", "__interval": "15s", "__range": "3600s"}
RANGE_SECONDS, STEP_SECONDS = 3600, 15


@dataclass(frozen=True, slots=True)
class Query:
    """One that a panel asks."""

    title: str
    expression: str
    legend: str
    instant: bool

    def series(self, asked: Prometheus) -> list[dict[str, Any]]:
        """What it returns now."""
        if self.instant:
            return asked.query(self.expression)
        now = time.time()
        span = {"start": str(now - RANGE_SECONDS), "end": str(now), "step": str(STEP_SECONDS)}
        found: list[dict[str, Any]] = asked.get("/api/v1/query_range", query=self.expression, **span)["result"]
        return found

    def has_data(self, asked: Prometheus) -> bool:
        """Whether a number is among it."""
        values = [value for one in self.series(asked) for _, value in one.get("values", [one.get("value")])]
        return any(math.isfinite(float(value)) for value in values)


def chosen(values: list[str]) -> str:
    """All values of a variable, as Grafana writes them between the quotes of a regular expression."""
    escaped = [re.sub(r"([\^$*{}\[\]'+?.()|])", r"\\\\\1", value) for value in values]
    return f"({'|'.join(escaped)})" if len(escaped) > 1 else escaped[0]


def filled(text: str, variables: Mapping[str, str]) -> str:
    """With every $variable and ${variable} replaced; an unknown one fails."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: variables[found[1]], text)


def values_of(asked: Prometheus) -> dict[str, str]:
    """The variables with all their values chosen, each asked for as Grafana does, in their order."""
    known = dict(INTERVALS)
    for name, variable in VARIABLES.items():
        if variable["type"] == "datasource":
            continue
        query = variable["query"]["query"]
        assert variable["definition"] == query
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()  # type: ignore[union-attr]
        values = asked.get(f"/api/v1/label/{label}/values", **{"match[]": filled(metric, known)})
        assert values, name
        known[name] = chosen(values)
    return known


def queries(variables: Mapping[str, str]) -> Iterator[Query]:
    for panel in PANELS:
        for target in panel.get("targets", ()):
            instant = bool(target.get("instant"))
            yield Query(panel["title"], filled(target["expr"], variables), target["legendFormat"], instant)
    for annotation in DASHBOARD["annotations"]["list"]:
        yield Query(annotation["name"], filled(annotation["expr"], variables), "", instant=False)


def test_every_query_returns_data_with_the_labels_that_its_legend_names(watched: Watched) -> None:
    running = watched.prometheus
    asked = list(queries(values_of(running)))
    assert len(asked) > 40

    def silent() -> list[Query]:
        return [query for query in asked if not query.has_data(running)]

    def answered() -> bool:
        watched.answer()
        return not silent()

    running.until(answered, silent)
    for query in asked:
        named = set(re.findall(r"\{\{(\w+)\}\}", query.legend)) - {"host"}  # which a single one has not
        assert all(named <= set(one["metric"]) for one in query.series(running)), query


def test_variables_are_what_the_service_is(watched: Watched) -> None:
    known = values_of(watched.prometheus)
    host, port = watched.server.http.split(":")
    assert known["instance"] == host.replace(".", r"\\.") + ":" + port
    assert (known["worker"], known["node"].split("|")[0].strip("()")) == ("(0|1)", "0")


def test_it_can_be_imported_anywhere() -> None:
    assert len(FILE.read_bytes()) < MOST_BYTES
    assert DASHBOARD["uid"] == "numoe"
    assert "id" not in DASHBOARD
    assert VARIABLES["datasource"]["query"] == "prometheus"
    asked = [*PANELS, *DASHBOARD["annotations"]["list"], *VARIABLES.values()]
    assert all(one["datasource"] == DATASOURCE for one in asked if one.get("type") not in ("row", "datasource"))


@pytest.mark.parametrize(
    "panel", [panel for panel in PANELS if panel["type"] != "row"], ids=lambda panel: panel["title"]
)
def test_every_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    letters = [target["refId"] for target in panel["targets"]]
    assert letters == sorted(set(letters))


def test_panels_have_numbers_of_their_own_and_do_not_lie_on_each_other() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
