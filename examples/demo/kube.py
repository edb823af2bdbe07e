"""The demo's side of the cluster: install the chart, apply the job, follow it, read what happened."""

import json
import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from narrate import HEARTBEAT_SECONDS, Failed, run, say, show_command

from finetune_api.names import ActiveReason

NAMESPACE = "demo"
OPERATOR_NAMESPACE = "finetune-system"
SECRET = "s3-credentials"  # noqa: S105 - its name
OURS = {"app.kubernetes.io/part-of": "finetune-demo"}
_WIDTHS = (6, 11, 8, 8, 8, 22, 7, 6)
_ACTIVE = {reason.value for reason in ActiveReason}


class Kube:
    """kubectl and helm of the local cluster."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment

    def kubectl(self, *arguments: str, stdin: str | None = None, shown: bool = False) -> str:
        """Run kubectl and return what it prints; show command and output where the person could have typed it."""
        if shown:
            show_command("kubectl", *arguments)
        done = subprocess.run(
            ["kubectl", *arguments],
            input=stdin, capture_output=True, text=True, env=dict(self.environment), check=False,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"`kubectl {' '.join(arguments)}` ended with {done.returncode}: {done.stderr.strip()}")
        if shown:
            say("\n".join(f"  {line}" for line in done.stdout.splitlines()), "dim")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """Read objects as JSON; None where there is none."""
        text = self.kubectl("get", *arguments, "--ignore-not-found", "--output=json")
        return json.loads(text) if text.strip() else None

    def apply(self, document: dict[str, Any]) -> None:
        """Apply an object whose content is nobody's business, such as a Secret."""
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump(document))

    def install(self, chart: Path, image_digest: str) -> None:
        """Install or upgrade the chart, and wait until the operator is ready."""
        command = [
            *("helm", "upgrade", "--install", "finetune-operator", str(chart)),
            *("--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--wait", "--timeout", "3m"),
            *("--set", "image.repository=finetune.local/operator", "--set", "image.tag=dev"),
            *("--set", "trainer.image.repository=finetune.local/trainer", "--set", "trainer.image.tag=dev"),
            *("--set", f"podAnnotations.demo/image={image_digest}"),  # a new image under the same name rolls out
        ]
        show_command(*command)
        run("installing the chart", command, self.environment)

    def prepare_namespace(self, secret: Mapping[str, str]) -> None:
        """Make the namespace, with the strictest Pod Security, and in it the credentials for the bucket."""
        labels = {**OURS, "pod-security.kubernetes.io/enforce": "restricted"}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}})
        show_command("kubectl create namespace", NAMESPACE)
        show_command("kubectl label namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        data = {name: secret[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        metadata = {"name": SECRET, "namespace": NAMESPACE}
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})
        show_command(
            f"kubectl --namespace {NAMESPACE} create secret generic {SECRET} --from-literal=AWS_ACCESS_KEY_ID=... "
            "--from-literal=AWS_SECRET_ACCESS_KEY=..."
        )

    def delete_old(self, name: str) -> None:
        """Delete the job of an earlier demo, and wait until its pods are gone."""
        if self.get("finetunejob", name, f"--namespace={NAMESPACE}"):
            say("The job of an earlier demo is still there; deleting it, and with it its pods.")
            self.kubectl("delete", "finetunejob", name, f"--namespace={NAMESPACE}", shown=True)
        began = time.monotonic()
        while left := (self.get("jobs,pods", f"--namespace={NAMESPACE}") or {"items": []})["items"]:
            if time.monotonic() - began > 120:
                raise Failed(f"{left[0]['metadata']['name']} does not go away; try: make cluster-down")
            names = ", ".join(item["metadata"]["name"] for item in left)
            say(f"  waiting for {names} to save a checkpoint and end ({time.monotonic() - began:.0f} s)", "dim")
            time.sleep(HEARTBEAT_SECONDS / 2)

    def follow(self, name: str) -> dict[str, Any]:
        """Show the line of `kubectl get ftj` at each change, and often enough, until the verdict; return the object."""
        command = ("get", "ftj", name, f"--namespace={NAMESPACE}")
        show_command("kubectl", *command, "--watch")
        last: list[str] = []
        shown_at = 0.0
        while True:
            header, line, news = _aligned(self.kubectl(*command))
            if not last:
                say(f"  {header}", "bold")
            if news != last or time.monotonic() - shown_at > HEARTBEAT_SECONDS:
                say(f"  {line}")
                last, shown_at = news, time.monotonic()
            if not set(line.split()) & _ACTIVE:
                job = self.get("finetunejob", name, f"--namespace={NAMESPACE}")
                if verdict(job)["status"] != "Unknown":
                    return dict(job)
            time.sleep(2)

    def events(self, name: str) -> None:
        """Show the events of the job, as `kubectl describe` does."""
        show_command(f"kubectl --namespace {NAMESPACE} describe ftj {name}")
        text = self.kubectl("describe", "ftj", name, f"--namespace={NAMESPACE}")
        _, found, events = text.partition("\nEvents:")
        say(f"  Events:{events.rstrip()}" if found else text, "dim")

    def logs(self) -> None:
        """Show the end of the trainer's log."""
        for pod in (self.get("pods", f"--namespace={NAMESPACE}") or {"items": []})["items"]:
            self.kubectl("logs", pod["metadata"]["name"], f"--namespace={NAMESPACE}", "--tail=30", shown=True)


def _aligned(table: str) -> tuple[str, str, list[str]]:
    """Header and line of a table of kubectl, in columns that are as wide each time; and the cells without the age."""
    header, line = table.splitlines()
    starts = [found.start() for found in re.finditer(r"\S+", header)]
    spans = [slice(*span) for span in zip(starts, [*starts[1:], None], strict=True)]
    rows = [[text[span].strip() for span in spans] for text in (header, line)]
    first, second = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, _WIDTHS, strict=True)) for row in rows)
    return first, second.rstrip(), rows[1][:-1]


def verdict(job: dict[str, Any]) -> dict[str, Any]:
    """The condition that says how a job ended: status, reason, message."""
    conditions = job.get("status", {}).get("conditions", [])
    unknown = {"status": "Unknown", "reason": "", "message": ""}
    return next((dict(c) for c in conditions if c["type"] == "Succeeded"), unknown)


def audit_facts(log: Path, start: int) -> tuple[int, int]:
    """Count what the API server's audit log says of our namespace.

    Args:
        log: One JSON object a line.
        start: The byte from which on to count.

    Returns:
        The Jobs created, and the operator's writes to FineTuneJobs that were not to their status.
    """
    created = writes = 0
    with log.open("rb") as lines:
        lines.seek(start)
        for line in lines:
            if not line.endswith(b"\n"):
                break  # it is being written
            entry = json.loads(line)
            target = entry.get("objectRef", {})
            if entry.get("stage") != "ResponseComplete" or target.get("namespace") != NAMESPACE:
                continue
            if target.get("resource") == "jobs" and entry["verb"] == "create":
                created += entry["responseStatus"]["code"] == 201
            by_operator = entry["user"]["username"].startswith(f"system:serviceaccount:{OPERATOR_NAMESPACE}:")
            if (
                by_operator
                and target.get("resource") == "finetunejobs"
                and entry["verb"] not in ("get", "list", "watch")
            ):
                writes += target.get("subresource") != "status"
    return created, writes
