"""The alerts of the chart, judged by promtool; each fires in a test, is silent in another, and is explained."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY

from finetune_api.names import ClusterReason
from finetune_api.outcome import Reason
from finetune_operator import metrics
from localcluster.state import REPOSITORY, Paths
from tests.chart.conftest import CHART, Render

RULES = CHART / "files" / "rules.yaml"
TESTS = Path(__file__).parent / "rules_test.yaml"
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.fixture(scope="session")
def promtool() -> Path:
    """The program; fails with the remedy where it is not built."""
    program = Paths.default().bin / "promtool"
    if not program.is_file():
        pytest.fail(f"{program} is missing; `python -m localcluster binaries --only checks` builds it")
    return program


@pytest.mark.parametrize("arguments", [("check", "rules", str(RULES)), ("test", "rules", str(TESTS))])
def test_promtool_agrees(promtool: Path, arguments: tuple[str, ...]) -> None:
    """The rules are valid, and fire when and only when the tests say so."""
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_that_waits_for_a_person_is_in_that_alert() -> None:
    """The reasons that docs/status.md says keep a job from starting, and a spec that cannot be used."""
    (alert,) = [rule for rule in ALERTS if rule["alert"] == "FinetuneJobsNeedSomebody"]
    (states,) = re.findall(r'state=~"([^"]+)"', alert["expr"])
    page = (REPOSITORY / "docs" / "status.md").read_text()
    (row,) = re.findall(r"^\| ([^|]+) \| it cannot start", page, re.MULTILINE)
    assert {*states.split("|")} == {*row.split(", "), "InvalidSpec"}


def test_each_alert_fires_and_is_silent_in_a_test() -> None:
    """None is left to chance."""
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    for fires in (True, False):
        assert {case["alertname"] for case in cases if bool(case.get("exp_alerts")) is fires} == {
            alert["alert"] for alert in ALERTS
        }


def test_alerts_ask_for_what_is_there() -> None:
    """Every metric is the operator's, and every reason or state that an expression names exists."""
    kinds = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"]}
    served = {
        family.name + suffix
        for family in REGISTRY.collect()
        for suffix in kinds.get(family.type, [""])
        if metrics and family.name.startswith("finetune_")
    }
    for alert in ALERTS:
        assert set(re.findall(r"finetune_\w+", alert["expr"])) <= served
        for values in re.findall(r"(?:reason|state)=~\"([^\"]+)\"", alert["expr"]):
            assert set(values.split("|")) <= {*Reason, *ClusterReason}


def test_each_alert_has_a_page() -> None:
    """Whoever is woken up finds what to do."""
    page = (REPOSITORY / "docs" / "observability.md").read_text()
    for alert in ALERTS:
        name = alert["alert"]
        assert alert["annotations"]["runbook"] == f"docs/observability.md#{name.lower()}"
        assert f"### {name}\n" in page


def test_the_rule_object_holds_the_rules(render: Render) -> None:
    """As they are: the chart's templates leave Prometheus' own alone."""
    off, on = render(), render("metrics.prometheusRule.enabled=true", "metrics.prometheusRule.labels.release=p")
    assert "PrometheusRule" not in [found["kind"] for found in off]
    (rule,) = [found for found in on if found["kind"] == "PrometheusRule"]
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    assert rule["metadata"]["labels"]["release"] == "p"
