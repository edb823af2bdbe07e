"""The API server's judge of the table in tests/api: the same verdicts as the Python models, naming the same fields."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from localcluster.errors import CommandFailedError
from tests.api import evaluation_cases
from tests.api.cases import ACCEPTED, REFUSED, Case

pytestmark = pytest.mark.cluster
NAMESPACE = "verdicts"


@pytest.fixture(scope="module")
def server(installed) -> Iterator[object]:  # type: ignore[no-untyped-def]
    """The cluster with the chart's CRD in it and a namespace for dry runs."""
    cluster = installed
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    yield cluster
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def _dry_run(cluster, text: str) -> subprocess.CompletedProcess[str]:  # type: ignore[no-untyped-def]
    """Ask the API server, with the strict field validation that kubectl apply uses."""
    return subprocess.run(
        ["kubectl", "-n", NAMESPACE, "apply", "--server-side", "--dry-run=server", "-f", "-"],
        input=text, env=cluster.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_accepted_as_structural(server) -> None:  # type: ignore[no-untyped-def]
    """The API server finds nothing to complain about in the schema."""
    conditions = server.get("crd", "finetunejobs.finetune.dev")["status"]["conditions"]

    assert {c["type"]: c["status"] for c in conditions if c["type"] != "Terminating"} == {
        "NamesAccepted": "True",
        "Established": "True",
    }


@pytest.mark.parametrize("case", ACCEPTED + evaluation_cases.ACCEPTED, ids=lambda case: case.sentence)
def test_accepted(server, case: Case) -> None:  # type: ignore[no-untyped-def]
    """A good job file passes."""
    answer = _dry_run(server, case.text)

    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("case", REFUSED + evaluation_cases.REFUSED, ids=lambda case: case.sentence)
def test_refused_with_the_field(server, case: Case) -> None:  # type: ignore[no-untyped-def]
    """A bad job file is refused with a message that names the field at fault."""
    answer = _dry_run(server, case.text)

    assert answer.returncode != 0
    assert case.field in answer.stderr or case.field.removeprefix("spec.") in answer.stderr, answer.stderr


def test_immutable_but_for_the_named_fields(server) -> None:  # type: ignore[no-untyped-def]
    """After creation only suspend, retries, deadlines and ttl can change; the message says what to do instead."""
    server.kubectl("-n", NAMESPACE, "create", "-f", "-", stdin=ACCEPTED[0].text)

    def patch(spec: dict[str, object]) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", "-n", NAMESPACE, "patch", "ftj", "case", "--type=merge", "-p", json.dumps({"spec": spec})]
        return subprocess.run(command, env=server.environment, capture_output=True, text=True, check=False)

    changed = ({"method": {"rank": 8}}, {"training": {"epochs": 9}}, {"output": {"uri": "s3://adapters/other"}})
    added = ({"image": "registry.example/trainer:2"}, {"serviceAccountName": "else"}, {"queueName": "team"})
    for spec in (*changed, *added[:2]):
        answer = patch(spec)
        assert answer.returncode != 0
        assert f"{next(iter(spec))} is immutable; create a new FineTuneJob" in answer.stderr
    assert "queueName changes only while suspend is true" in patch(added[2]).stderr
    for spec in (
        {"suspend": True},
        added[2],
        {"queueName": None},
        {"retries": 7},
        {"deadlines": {"activeSeconds": 60}},
        {"ttlSecondsAfterFinished": 60},
    ):
        assert patch(spec).returncode == 0


def test_what_may_be_missing_is_neither_taken_away_nor_replaced(server) -> None:  # type: ignore[no-untyped-def]
    """A rule of the spec holds these: a field's own rule says nothing where the field comes or goes."""
    given = {"image": "registry.example/trainer:1", "serviceAccountName": "trainer", "queueName": "team"}
    text = ACCEPTED[0].text.replace("name: case", "name: given") + "".join(f"  {k}: {v}\n" for k, v in given.items())
    server.kubectl("-n", NAMESPACE, "create", "-f", "-", stdin=text)
    for field in given:
        for value in ("null", '"else"'):
            command = (
                "-n",
                NAMESPACE,
                "patch",
                "ftj",
                "given",
                "--type=merge",
                f'-p={{"spec": {{"{field}": {value}}}}}',
            )
            with pytest.raises(CommandFailedError, match=f"{field} (is immutable|changes only while suspend is true)"):
                server.kubectl(*command)


def test_unseen_object_reads_as_not_observed(server) -> None:  # type: ignore[no-untyped-def]
    """Before any operator looks at it, an object says observedGeneration -1, so that nobody takes it for done."""
    text = ACCEPTED[0].text.replace("name: case", "name: unseen")
    scale = ("-n", "finetune-system", "scale", "deployment/finetune-operator")
    server.kubectl(*scale, "--replicas=0")
    server.kubectl("-n", "finetune-system", "wait", "--for=delete", "pod", "--all", "--timeout=60s", timeout=70)
    try:
        server.kubectl("-n", NAMESPACE, "create", "-f", "-", stdin=text)

        assert server.get("ftj", "unseen", namespace=NAMESPACE)["status"] == {"observedGeneration": -1}
    finally:
        server.kubectl(*scale, "--replicas=1")
        server.kubectl("-n", "finetune-system", "rollout", "status", "deployment/finetune-operator", timeout=120)


def test_every_field_is_explained(server) -> None:  # type: ignore[no-untyped-def]
    """`kubectl explain --recursive` knows the whole spec."""
    text = server.kubectl("explain", "finetunejob.spec.training.checkpoints")

    assert "everySteps" in text
    assert "Optimizer steps between two checkpoints." in text
