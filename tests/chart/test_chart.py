"""Laws of the chart: least rights, restricted pods, values that are checked, and the CRD as the models say."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_operator.settings import Settings, variable
from tests.chart.conftest import CHART, Helm, Render

CRD = Path(__file__).parents[2] / "crds" / "finetunejobs.yaml"
VARIANTS: list[tuple[str, ...]] = [
    (),
    ("watchNamespaces={a,b}",),
    ("crds.enabled=false", "metrics.podMonitor.enabled=true", "serviceAccount.create=false", "log.format=json"),
    ("image.digest=sha256:" + "0" * 64, "imagePullSecrets={pull}", "priorityClassName=high", "nodeSelector.a=b"),
    ("policy.enabled=true", "policy.maxGPUs=8", "policy.allowedBuckets={a,b*}"),
    ("extraEnv[0].name=FINETUNE_RESYNC_SECONDS", "extraEnv[0].value=60", "podLabels.team=ml", "podAnnotations.a=b"),
]


def kinds(objects: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """The objects of these kinds."""
    return [found for found in objects if found["kind"] in names]


def test_lint(helm: Helm) -> None:
    """`helm lint --strict` has nothing to say."""
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("values", VARIANTS)
def test_every_variant_renders_the_same_twice(helm: Helm, render: Render, values: tuple[str, ...]) -> None:
    """GitOps tools render again and again, and must see no change."""
    first = render(*values)
    sets = [part for value in values for part in ("--set", value)]
    again = helm("template", "release", str(CHART), "--namespace", "system", *sets).stdout
    assert first == [document for document in yaml.load_all(again, Loader=yaml.CSafeLoader) if document]
    names = [(found["kind"], found["metadata"].get("namespace"), found["metadata"]["name"]) for found in first]
    assert len(names) == len(set(names))


def test_nothing_looks_at_the_cluster_or_the_clock() -> None:
    """No lookup, no random values, no dates, no hooks."""
    text = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    assert not re.search(r"\b(lookup|rand[A-Z]\w*|now|genCA|genSelf\w*|uuidv4|helm\.sh/hook)\b", text)


@pytest.mark.parametrize("values", VARIANTS)
def test_least_rights(render: Render, values: tuple[str, ...]) -> None:
    """No wildcards, no Secrets, no writes but those that the operator makes."""
    roles = kinds(render(*values), "Role", "ClusterRole")
    rules = [rule for role in roles if not role["metadata"]["name"].endswith("-lease") for rule in role["rules"]]
    assert rules
    granted = {(g, r, v) for rule in rules for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
    assert not [grant for grant in granted if "*" in grant]
    assert all(set(rule) == {"apiGroups", "resources", "verbs"} for rule in rules)
    reads = {"get", "list", "watch"}
    assert {(r, v) for _, r, v in granted if v not in reads} == {
        ("finetunejobs", "delete"),
        ("finetunejobs/status", "patch"),
        ("finetunejobs/finalizers", "update"),
        ("jobs", "create"),
        ("services", "create"),
        ("jobs", "patch"),
        ("jobs", "delete"),
        ("events", "create"),
        ("events", "patch"),
    }
    assert {r for _, r, _ in granted} == {
        "finetunejobs", "finetunejobs/status", "finetunejobs/finalizers", "jobs", "services", "pods", "events",
    }  # fmt: skip


@pytest.mark.parametrize("values", VARIANTS)
def test_the_lease_is_one_by_name(render: Render, values: tuple[str, ...]) -> None:
    """What the replicas are told is the only Lease that they may change, in the release's own namespace."""
    objects = render(*values)
    (role,) = [found for found in kinds(objects, "Role") if found["metadata"]["name"].endswith("-lease")]
    told = environment(objects)
    assert role["metadata"]["namespace"] == told["FINETUNE_LEASE_NAMESPACE"] == "system"
    named, free = role["rules"]
    assert (named["resourceNames"], named["verbs"]) == ([told["FINETUNE_LEASE_NAME"]], ["get", "update"])
    assert (free["resources"], free["verbs"]) == (["leases"], ["create"])


def test_two_replicas_and_one_of_them_may_be_disturbed(render: Render) -> None:
    """A budget of disruptions stands only where there is somebody left to lead."""
    objects = render()
    (deployment,) = kinds(objects, "Deployment")
    (budget,) = kinds(objects, "PodDisruptionBudget")
    assert deployment["spec"]["replicas"] == 2
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]
    assert not kinds(render("replicas=1"), "PodDisruptionBudget")


def test_a_policy_only_where_it_is_wanted(render: Render) -> None:
    """Nobody's jobs are refused by a value that was not set; the limits are the binding's parameters."""
    assert not kinds(render(), "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ConfigMap")
    objects = render("policy.enabled=true", "policy.maxGPUs=8", "policy.allowedBuckets={a,b*}")
    (binding,) = kinds(objects, "ValidatingAdmissionPolicyBinding")
    (parameters,) = kinds(objects, "ConfigMap")
    assert parameters["data"] == {"allowedImages": "", "allowedModels": "", "allowedBuckets": "a\nb*", "maxGPUs": "8"}
    reference = {"name": parameters["metadata"]["name"], "namespace": parameters["metadata"]["namespace"]}
    assert binding["spec"]["paramRef"] == {**reference, "parameterNotFoundAction": "Deny"}
    assert not {"maxGPUs"} & kinds(render("policy.enabled=true"), "ConfigMap")[0]["data"].keys()


def test_rights_end_at_the_watched_namespaces(render: Render) -> None:
    """With watchNamespaces nothing of the cluster is granted, and the operator is told where to look."""
    objects = render("watchNamespaces={a,b}")
    assert not kinds(objects, "ClusterRole", "ClusterRoleBinding")
    for kind in ("Role", "RoleBinding"):
        places = [
            o["metadata"]["namespace"] for o in kinds(objects, kind) if not o["metadata"]["name"].endswith("-lease")
        ]
        assert places == ["a", "b"]
    assert environment(objects)["FINETUNE_NAMESPACES"] == "a,b"


@pytest.mark.parametrize("values", VARIANTS)
def test_bindings_name_the_account_of_the_deployment(render: Render, values: tuple[str, ...]) -> None:
    """Every binding leads from the pod's own ServiceAccount to a role of this release."""
    objects = render(*values)
    (deployment,) = kinds(objects, "Deployment")
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    roles = {(r["kind"], r["metadata"]["name"]) for r in kinds(objects, "Role", "ClusterRole")}
    for binding in kinds(objects, "RoleBinding", "ClusterRoleBinding"):
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "system"}]
        assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in roles


@pytest.mark.parametrize("values", VARIANTS)
def test_restricted_pod_with_patient_probes(render: Render, values: tuple[str, ...]) -> None:
    """Pod Security restricted, a read-only root, and probes that bear a busy moment."""
    (deployment,) = kinds(render(*values), "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    for probe, path in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz"), ("startupProbe", "/healthz")]:
        assert container[probe]["httpGet"]["path"] == path
        assert container[probe]["timeoutSeconds"] == 5
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def environment(objects: list[dict[str, Any]]) -> dict[str, str]:
    """The operator's environment variables."""
    (deployment,) = kinds(objects, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value", "from the pod") for entry in container["env"]}


@pytest.mark.parametrize("values", VARIANTS)
def test_environment_is_what_the_operator_reads(render: Render, values: tuple[str, ...]) -> None:
    """Every variable is a setting, and the settings accept what the chart gives."""
    given = environment(render(*values))
    assert set(given) <= {variable(name) for name in Settings.model_fields}
    assert Settings.from_environment(given).trainer_image == "finetune-trainer:0.1.0"


def test_digest_wins_over_the_tag(render: Render) -> None:
    """An image by digest is the only repeatable one."""
    digest = "sha256:" + "a" * 64
    objects = render("trainer.image.repository=example.test/t", "trainer.image.tag=x", f"trainer.image.digest={digest}")
    assert environment(objects)["FINETUNE_TRAINER_IMAGE"] == f"example.test/t@{digest}"


def test_crd_is_the_generated_one(render: Render) -> None:
    """The chart's CRD is the repository's; it survives an uninstall, and can be left out."""
    expected = yaml.safe_load(CRD.read_text())
    assert (CHART / "files" / "crd.yaml").read_text() == CRD.read_text()
    (kept,) = kinds(render(), "CustomResourceDefinition")
    assert kept["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert kept == expected
    (plain,) = kinds(render("crds.keep=false"), "CustomResourceDefinition")
    assert plain == expected
    assert not kinds(render("crds.enabled=false"), "CustomResourceDefinition")


@pytest.mark.parametrize(
    "value",
    [
        "replicas=0",
        "image.repo=x",
        "image.pullPolicy=Sometimes",
        "image.digest=sha256:short",
        "trainer.image.tag=a b",
        "trainer.terminationGraceSeconds=0",
        "crds.install=true",
        "log.level=LOUD",
        "log.format=xml",
        "workers=0",
        "watchNamespaces=default",
        "metrics.podMonitor.interval=often",
        "metrics.service.port=70000",
        "serviceAccount.name=Not_A_Name",
        "policy.allowedModels={a*b}",
        "policy.maxGPUs=-1",
    ],
)
def test_bad_values_are_refused(helm: Helm, value: str) -> None:
    """A mistyped value is an error with the value's name in it, never silently without effect."""
    done = helm("template", "release", str(CHART), "--set", value)
    assert done.returncode != 0
    key = value.split("=", maxsplit=1)[0].rsplit(".", maxsplit=1)[-1]
    assert key in done.stderr


def test_every_value_is_explained() -> None:
    """Each top-level value has a comment of its own or a name that needs none; the schema knows each."""
    import json

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}


def test_metrics_service_reaches_the_pod(render: Render) -> None:
    """The Service selects the Deployment's pods, at a port that has that name there."""
    objects = render()
    (service,) = kinds(objects, "Service")
    (deployment,) = kinds(objects, "Deployment")
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
