"""One real cluster for all cluster tests (see localcluster/)."""

import json
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
