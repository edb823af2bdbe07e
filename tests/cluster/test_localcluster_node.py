"""The local cluster's node is a real one: what any cluster does with pods, it does."""

import secrets
from typing import Any

import pytest

from localcluster import topology

pytestmark = pytest.mark.cluster

IMAGE = "finetune.local/base:dev"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod_spec(code: str, **more: Any) -> dict[str, Any]:
    """Return the spec of a pod that runs some Python once."""
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-u", "-c", code],
        "securityContext": RESTRICTED,
        **more.pop("container", {}),
    }
    return {"restartPolicy": "Never", "containers": [container], **more}


@pytest.fixture
def namespace(cluster: Any) -> Any:
    """A namespace that enforces Pod Security `restricted`, removed afterwards."""
    name = f"node-{secrets.token_hex(3)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    cluster.wait_for("the namespace's ServiceAccount", lambda: cluster.get("serviceaccounts", namespace=name)["items"])
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def run(cluster: Any, namespace: str) -> Any:
    """Start a pod and return its name."""

    def start(code: str, **more: Any) -> str:
        name = f"pod-{secrets.token_hex(3)}"
        metadata = {"name": name, "namespace": namespace}
        spec = pod_spec(code, **more)
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, namespace=namespace)
        return name

    return start


@pytest.fixture
def terminated(cluster: Any, namespace: str) -> Any:
    """Wait until a pod's container has ended, and return how."""

    def wait(name: str) -> dict[str, Any]:
        def state() -> dict[str, Any] | None:
            statuses = cluster.get("pod", name, namespace=namespace)["status"].get("containerStatuses", [])
            return statuses[0]["state"].get("terminated") if statuses else None

        result: dict[str, Any] = cluster.wait_for(f"pod {name} to end", state)
        return result

    return wait


def test_exit_code_termination_message_and_log_arrive(cluster: Any, namespace: str, run: Any, terminated: Any) -> None:
    """The three things a process leaves behind are in the pod's status and log."""
    name = run("print('to the log'); open('/dev/termination-log', 'w').write('the reason'); raise SystemExit(65)")

    end = terminated(name)

    assert (end["exitCode"], end["message"]) == (65, "the reason")
    assert cluster.kubectl("-n", namespace, "logs", name) == "to the log\n"


def test_deletion_is_sigterm_then_after_the_grace_period_sigkill(
    cluster: Any, namespace: str, run: Any, terminated: Any
) -> None:
    """A process that ignores SIGTERM still hears it, and ends with 137 when the grace period is over."""
    code = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: open("/dev/termination-log", "w").write("heard SIGTERM"))
print("up")
while True:
    time.sleep(1)
"""
    name = run(code, terminationGracePeriodSeconds=2)
    # A finalizer keeps the object, so that its last state can be read.
    cluster.kubectl("-n", namespace, "patch", "pod", name, "-p", '{"metadata":{"finalizers":["finetune.dev/test"]}}')
    log = ("-n", namespace, "logs", name, "--ignore-errors")  # an error is then printed, not "up"
    cluster.wait_for("the pod to be ready for the signal", lambda: cluster.kubectl(*log) == "up\n")

    cluster.kubectl("-n", namespace, "delete", "pod", name, "--wait=false")
    try:
        end = terminated(name)
    finally:
        cluster.kubectl("-n", namespace, "patch", "pod", name, "-p", '{"metadata":{"finalizers":null}}')

    assert (end["exitCode"], end["message"]) == (137, "heard SIGTERM")


def test_a_process_over_its_memory_limit_is_oom_killed(run: Any, terminated: Any) -> None:
    """Limits are real cgroups, and the status says what happened."""
    limits = {"resources": {"limits": {"memory": "64Mi"}, "requests": {"memory": "64Mi"}}}

    end = terminated(run("x = b'x' * (256 << 20)", container=limits))

    assert (end["exitCode"], end["reason"]) == (137, "OOMKilled")


def test_pods_reach_the_api_server_through_its_service_and_the_s3_server(
    cluster: Any, run: Any, terminated: Any
) -> None:
    """The ClusterIP answers with a certificate that a strict Python accepts; the S3 server answers at all."""
    code = f"""
import os, ssl, urllib.request, urllib.error
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
server = f"https://{{os.environ['KUBERNETES_SERVICE_HOST']}}:{{os.environ['KUBERNETES_SERVICE_PORT']}}"
request = urllib.request.Request(f"{{server}}/version")
request.add_header("Authorization", "Bearer " + open(f"{{folder}}/token").read())
context = ssl.create_default_context(cafile=f"{{folder}}/ca.crt")
answers = [urllib.request.urlopen(request, context=context, timeout=10).status]
try:
    urllib.request.urlopen("{cluster.s3.endpoint}/models", timeout=10)
except urllib.error.HTTPError as error:
    answers.append(error.code)
open("/dev/termination-log", "w").write(str(answers))
"""

    end = terminated(run(code))

    assert end["message"] == "[200, 403]"  # 403: it is there, and lets nobody in without credentials


def test_look_ups_of_names_fail_at_once(run: Any, terminated: Any) -> None:
    """Outside the cluster there are no names; a program that asks must not hang for it."""
    code = """
import socket, time
began = time.monotonic()
try:
    socket.getaddrinfo("example.invalid", 80)
except OSError:
    took = time.monotonic() - began
    open("/dev/termination-log", "w").write("fast" if took < 2 else f"{took:.1f} s")
"""

    assert terminated(run(code))["message"] == "fast"


def test_a_service_has_a_name(run: Any, terminated: Any) -> None:
    """A pod finds a Service by name and namespace, as anywhere."""
    code = """
import socket
address = socket.getaddrinfo("kubernetes.default", 443)[0][4][0]
open("/dev/termination-log", "w").write(address)
"""

    assert terminated(run(code))["message"] == topology.API_SERVICE_IP


def test_an_indexed_job_completes(cluster: Any, namespace: str) -> None:
    """The real Job controller gives each pod its index and counts them."""
    spec = {
        "completions": 2,
        "parallelism": 2,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "template": {"spec": pod_spec("import os; print('index', os.environ['JOB_COMPLETION_INDEX'])")},
    }
    metadata = {"name": "indexed", "namespace": namespace}
    cluster.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}, namespace=namespace)

    cluster.kubectl("-n", namespace, "wait", "job/indexed", "--for=condition=Complete", "--timeout=60s")

    assert cluster.get("job", "indexed", namespace=namespace)["status"]["completedIndexes"] == "0,1"
    log = cluster.kubectl("-n", namespace, "logs", "--selector=job-name=indexed")
    assert sorted(log.splitlines()) == ["index 0", "index 1"]


def test_writes_to_jobs_are_in_the_audit_log_with_their_bodies(cluster: Any, namespace: str) -> None:
    """Tests count writes by this log: one line per answered request, with the subresource."""
    metadata = {"name": "audited", "namespace": namespace}
    spec = {"suspend": True, "template": {"spec": pod_spec("pass")}}
    cluster.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}, namespace=namespace)

    creations = [
        entry
        for entry in cluster.audit()
        if entry["verb"] == "create"
        and entry["objectRef"].get("namespace") == namespace
        and entry["objectRef"]["resource"] == "jobs"
    ]

    assert [entry["requestObject"]["metadata"]["name"] for entry in creations] == ["audited"]
    assert "subresource" not in creations[0]["objectRef"]


def test_a_pod_that_is_not_restricted_is_refused_where_that_is_enforced(cluster: Any, namespace: str) -> None:
    """Pod Security admission is on."""
    spec = pod_spec("pass", container={"securityContext": {}})
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain", "namespace": namespace}, "spec": spec}

    with pytest.raises(Exception, match="violates PodSecurity"):
        cluster.apply(pod, namespace=namespace)


def test_environment_is_enough_for_kubectl_and_s3_clients(cluster: Any) -> None:
    """A program started with these variables needs no other configuration."""
    boto3 = pytest.importorskip("boto3")
    environment = cluster.environment

    assert environment["KUBECONFIG"] == str(cluster.kubeconfig)
    assert environment["AWS_ENDPOINT_URL"] == cluster.s3.endpoint
    buckets = boto3.client("s3", **cluster.s3.client_arguments()).list_buckets()["Buckets"]
    assert {bucket["Name"] for bucket in buckets} >= {"models", "datasets", "adapters"}
