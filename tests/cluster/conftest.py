"""One real cluster for all cluster tests (see localcluster/)."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from localcluster import images, imagestore, lifecycle
from localcluster.errors import LocalClusterError
from localcluster.s3 import S3Server
from localcluster.state import Paths
from tests.cluster.jobs import NAMESPACE
from tests.tiny import jsonl, rows, save_tiny_model


@dataclass(frozen=True)
class Cluster:
    """The running cluster, as its administrator sees it."""

    paths: Paths

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run kubectl and return its output; a failure raises with what it said."""
        return lifecycle.kubectl(self.paths, *arguments, stdin=stdin, timeout=timeout)

    def apply(self, *objects: dict[str, Any], namespace: str = "default") -> None:
        """Create or change objects."""
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("--namespace", namespace, "apply", "--filename", "-", stdin=json.dumps(document))

    def get(self, kind: str, name: str = "", *, namespace: str = "default") -> dict[str, Any]:
        """Return an object, or the list of all."""
        names = [name] if name else []
        answer: dict[str, Any] = json.loads(self.kubectl("-n", namespace, "get", kind, *names, "--output=json"))
        return answer

    @property
    def environment(self) -> dict[str, str]:
        """KUBECONFIG, PATH and AWS_... for programs that use the cluster."""
        return lifecycle.environment(self.paths)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.paths.kubeconfig

    @property
    def s3(self) -> S3Server:
        """The S3 server: `boto3.client("s3", **cluster.s3.client_arguments())`."""
        return lifecycle.s3_server(self.paths)

    def audit(self) -> list[dict[str, Any]]:
        """Return the API server's audit log so far."""
        return [json.loads(line) for line in self.paths.audit.read_text().splitlines()]

    @staticmethod
    def wait_for(what: str, condition: Callable[[], Any], *, timeout: float = 60) -> Any:
        """Poll until a condition is true, and return its value."""
        end = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > end:
                pytest.fail(f"Waited {timeout:.0f} s in vain for {what}.")
            time.sleep(0.1)
        return value


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The local cluster: brought up if it is down, and then taken down at the end. Without it tests fail."""
    paths = Paths.default()
    was_up = lifecycle.status(paths).healthy
    try:
        lifecycle.up(paths)
        if images.IMAGES["base"].name not in imagestore.Layout(imagestore.layout(paths)).images():
            images.build_and_load(paths, ["base"])
    except LocalClusterError as error:
        pytest.fail(f"The cluster tests need the local cluster, and it did not come up.\n{error}", pytrace=False)
    yield Cluster(paths)
    if not was_up:
        lifecycle.down(paths)


@pytest.fixture(scope="session")
def s3_client(cluster: Cluster) -> Any:
    """A boto3 client for the cluster's S3 server."""
    import boto3

    return boto3.client("s3", **cluster.s3.client_arguments())


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny chat model, as a folder."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def installed(cluster: Cluster, s3_client: Any, tiny_model: Path) -> Cluster:
    """The cluster with the chart installed, a namespace under Pod Security restricted, a model and a dataset."""
    images.build_and_load(cluster.paths, ["operator", "trainer"])
    operator, _, tag = images.IMAGES["operator"].name.rpartition(":")
    trainer = images.IMAGES["trainer"].name.rpartition(":")[0]
    command = [
        "helm", "upgrade", "--install", "finetune-operator", "charts/finetune-operator", "--wait", "--timeout=120s",
        "--namespace=finetune-system", "--create-namespace",
        f"--set=image.repository={operator},image.tag={tag}",
        "--set=replicas=1",  # tests kill it and read its log; two of them are tested in tests/simulation
        f"--set=trainer.image.repository={trainer},trainer.image.tag={tag}",
    ]  # fmt: skip
    installation = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, check=False)
    assert installation.returncode == 0, installation.stderr
    cluster.kubectl("-n", "finetune-system", "rollout", "restart", "deployment/finetune-operator")  # the newest image
    cluster.kubectl("-n", "finetune-system", "rollout", "status", "deployment/finetune-operator", timeout=120)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", timeout=180)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
    keys = {k: v for k, v in cluster.s3.environment().items() if k in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials"}, "stringData": keys}
    cluster.apply(secret, namespace=NAMESPACE)
    for path in tiny_model.iterdir():
        s3_client.upload_file(str(path), "models", f"tiny/{path.name}")
    s3_client.put_object(Bucket="datasets", Key="train.jsonl", Body=jsonl(rows(32)).encode())
    s3_client.put_object(Bucket="datasets", Key="eval.jsonl", Body=jsonl(rows(8, start=100)).encode())
    return cluster
