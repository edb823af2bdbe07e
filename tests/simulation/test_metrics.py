"""What a real operator serves at /metrics, judged by promtool."""

import re
import subprocess
import time
from pathlib import Path

import pytest

from localcluster import binaries
from localcluster.simulation import ControlPlane
from localcluster.state import Paths
from tests.simulation.jobs import NAMESPACE, job, verdict, wait_for
from tests.simulation.operators import Operator

pytestmark = pytest.mark.simulation


def value(text: str, series: str) -> float:
    """Of one series."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found is not None, f"{series} is not served"
    return float(found[1])


def test_metrics_after_two_jobs(plane: ControlPlane, operator: Operator) -> None:
    """Well formed by promtool, without a name of any object, and they count what happened."""
    promtool = binaries.ensure(Paths.default(), ("checks",)) / "promtool"
    before = operator.answer("/metrics")[1]
    failed = 'finetune_jobs_finished_total{reason="Unknown",result="failed"}'
    published = 'finetune_jobs_finished_total{reason="Published",result="succeeded"}'
    assert (value(before, failed), value(before, published)) == (0, 0)
    plane.apply(job("measured"), job("stuck", serviceAccountName="nobody"))
    wait_for("its end", lambda: verdict(plane, "measured")[0] == "True")
    wait_for("its trouble", lambda: verdict(plane, "stuck")[1] == "MissingServiceAccount")
    wait_for("the count", lambda: value(operator.answer("/metrics")[1], published) == 1)

    text = operator.answer("/metrics")[1]
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    labels = set(re.findall(r'="([^"]*)"', text))
    assert not [label for label in labels if "measured" in label or "stuck" in label or label == NAMESPACE]
    assert value(text, 'finetune_jobs{state="MissingServiceAccount"}') == 1
    for stage in ("prepare", "train"):
        assert value(text, f'finetune_queue_wait_seconds_count{{stage="{stage}"}}') == 1
    assert value(text, "finetune_leader") == 1
    for resource in ("finetunejobs", "jobs", "pods"):
        assert value(text, f'finetune_watch_last_event_timestamp_seconds{{resource="{resource}"}}') > 1.7e9
    asked = 'finetune_api_requests_total{code="201",resource="jobs",verb="POST"}'
    assert value(text, asked) == 3
    assert not re.findall(r'resource="other"', text)


def test_the_liveness_probe_listens_to_the_watches_and_to_nothing_else(operator: Operator) -> None:
    """What is asked only once, as kopf asks which kinds there are, would be silent for ever."""
    kinds = ("finetunejobs", "jobs", "pods")
    wait_for("all watches", lambda: len(watches(operator)) >= len(kinds))
    assert sorted(path.rsplit("/", 1)[-1] for path in watches(operator)) == sorted(kinds)


def watches(operator: Operator) -> list[str]:
    """The paths that the probe knows."""
    return re.findall(r"^\[\+\]watch (\S+) heard", operator.answer("/healthz?verbose")[1], re.MULTILINE)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_watch_is_heard_on_a_quiet_cluster(plane: ControlPlane, tmp_path: Path) -> None:
    """Bookmarks alone renew its time, and after four minutes in which nothing happens the operator is as healthy."""
    series = 'finetune_watch_last_event_timestamp_seconds{resource="pods"}'
    with Operator(plane, tmp_path / "log", pod_name="one") as operator:
        operator.wait_until_ready()
        first = value(operator.answer("/metrics")[1], series)
        wait_for("a bookmark", lambda: value(operator.answer("/metrics")[1], series) > first, timeout=150)
        time.sleep(200)  # longer than a watch may be silent
        assert operator.answer("/healthz") == (200, "ok\n")
