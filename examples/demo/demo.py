"""`make demo`: one FineTuneJob, from `kubectl apply` to a verified adapter that answers better than its base model.

    python examples/demo/demo.py [--work-dir DIR] [--down]

Needs root (a real Kubernetes node is started on this machine); asks no model hub. Running it again works, after an end
of any kind. The exit code is 0 only when the adapter is verified and good: exact match on held-out requests below 10 %
before and above 60 % after.
"""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY))

import dataset  # noqa: E402
import model  # noqa: E402
from bucket import Bucket, check_manifest  # noqa: E402
from kube import NAMESPACE, Kube, audit_facts, verdict  # noqa: E402
from narrate import Failed, Steps, console, run, say, show_command  # noqa: E402
from rich.table import Table  # noqa: E402

from localcluster import images, lifecycle, requirements  # noqa: E402
from localcluster.errors import LocalClusterError  # noqa: E402
from localcluster.imagestore import Layout, layout  # noqa: E402
from localcluster.state import Paths  # noqa: E402

JOB = "demo"  # its name in job.yaml
BASE_BELOW, TUNED_ABOVE = 0.10, 0.60
MODEL_PREFIX = "SmolLM2-135M-Instruct"
PREFIX = "demo"
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",  # a bar is no line
    "PYTHONWARNINGS": "ignore::FutureWarning",
    "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads sleep: two cores are shared with the cluster
}


class Demo:
    """The story, step by step."""

    def __init__(self, paths: Paths, work: Path) -> None:
        self.paths = paths
        self.work = work
        self.steps = Steps()
        self.kube = Kube({})

    def tell(self) -> bool:
        """Run every step; tell whether the bar was met."""
        self.start_cluster()
        self.install_operator()
        self.upload()
        job = self.train()
        self.check(job)
        passed = self.score()
        console.print()
        console.print(self.steps.table())
        return passed

    def start_cluster(self) -> None:
        """A real node on this machine, and the project's two images in it."""
        with self.steps.step("A Kubernetes node and an S3 server on this machine, and the project's images"):
            show_command("python -m localcluster images & python -m localcluster up")
            requirements.check(self.paths, images=True)
            with images.built_meanwhile():
                lifecycle.up(self.paths)
            self.kube = Kube(lifecycle.environment(self.paths))
            say('To look around in another shell: eval "$(.venv/bin/python -m localcluster env)"', "bold")

    def install_operator(self) -> None:
        """The operator, from the chart."""
        with self.steps.step("The operator, installed by its Helm chart"):
            built = Layout(layout(self.paths)).images()[images.IMAGES["operator"].name]
            self.kube.install(REPOSITORY / "charts" / "finetune-operator", built["digest"].removeprefix("sha256:")[:12])

    def upload(self) -> None:
        """Model and rows, made here, into the buckets."""
        with self.steps.step(f"Model and dataset, made here and uploaded: {model.NAME}, {dataset.TRAIN_ROWS} rows"):
            show_command(f"python examples/demo/model.py {self.work / 'model'}")
            run("making the model folder", [sys.executable, str(HERE / "model.py"), str(self.work / "model")], OFFLINE)
            show_command(f"python examples/demo/dataset.py {self.work / 'data'}")
            dataset.write(self.work / "data")
            Bucket("models", self.kube.environment).upload(self.work / "model", MODEL_PREFIX)
            Bucket("datasets", self.kube.environment).upload(self.work / "data", PREFIX)

    def train(self) -> dict[str, Any]:
        """Apply the job and follow it to its verdict."""
        with self.steps.step("One FineTuneJob: kubectl apply, and the operator does the rest"):
            self.kube.prepare_namespace(self.kube.environment)
            self.kube.delete_old(JOB)
            Bucket("adapters", self.kube.environment).clear(PREFIX)
            rendered = self.work / "job.yaml"
            endpoint = f"  storage:\n    endpoint: {self.kube.environment['AWS_ENDPOINT_URL']}\n"
            rendered.write_text((HERE / "job.yaml").read_text().replace("  storage:\n", endpoint))
            say(f"{rendered} is examples/demo/job.yaml with the endpoint of this machine's S3 server.")
            self.audit_start = self.paths.audit.stat().st_size
            self.kube.kubectl("apply", "--filename", str(rendered), shown=True)
            finished = self.kube.follow(JOB)
        self.kube.events(JOB)
        end = verdict(finished)
        if end["status"] != "True":
            self.kube.logs()
            raise Failed(f"the job failed: {end['reason']}: {end['message']}")
        return finished

    def check(self, job: dict[str, Any]) -> None:
        """Look at what the operator did, and at every byte that was published."""
        with self.steps.step("The result, checked from outside"):
            say(f"status: {json.dumps(job['status'].get('artifact', {}))}", "dim")
            created, writes = audit_facts(self.paths.audit, self.audit_start)
            say(f"The API server's audit log: {created} Jobs created; {writes} writes to the FineTuneJob but /status.")
            if (created, writes) != (2, 0):
                raise Failed("two Jobs, one to prepare the data and one to train, and no other write were expected")
            Bucket("adapters", self.kube.environment).download(PREFIX, self.fresh("adapter"))
            files = check_manifest(self.work / "adapter")
            say(f"s3://adapters/{PREFIX}: {files} files, each with the sha256 that manifest.json says.")

    def score(self) -> bool:
        """Ask base model and tuned model the held-out requests."""
        with self.steps.step("Base model and adapter from the bucket, loaded with plain PEFT, on held-out requests"):
            result = self.work / "score.json"
            held_out = self.work / "data" / "eval.jsonl"
            command = ["python", "examples/demo/score.py", str(self.work / "model"), str(self.work / "adapter")]
            show_command(*command, str(held_out))
            command[:2] = [sys.executable, str(HERE / "score.py")]
            run("scoring", [*command, str(held_out), "--result", str(result)], OFFLINE)
            score = json.loads(result.read_text())
        console.print(_examples(score["answers"]))
        passed = bool(score["base"] < BASE_BELOW and score["tuned"] > TUNED_ABOVE)
        say(
            f"{'PASS' if passed else 'FAIL'}: exact match on {len(score['answers'])} held-out requests is "
            f"{score['base']:.0%} before (bar: below {BASE_BELOW:.0%}) and {score['tuned']:.0%} after (bar: above "
            f"{TUNED_ABOVE:.0%}).",
            "bold green" if passed else "bold red",
        )
        return passed

    def fresh(self, name: str) -> Path:
        """An empty folder of the work folder."""
        folder = self.work / name
        for file in folder.iterdir() if folder.exists() else ():
            file.unlink()
        return folder


def _examples(answers: list[dict[str, str]]) -> Table:
    table = Table(title="three of them", title_justify="left", show_lines=True)
    for title in ("request", "base model", "with the adapter"):
        table.add_column(title, overflow="fold")
    for answer in answers[:3]:
        base = " ".join(answer["base"].split())
        table.add_row(answer["request"], base if len(base) < 120 else f"{base[:120]} ...", answer["tuned"].strip())
    return table


def main() -> int:
    """Tell the story; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, help="model, rows, adapter; default: in the cluster's state folder")
    parser.add_argument("--down", action="store_true", help="take the cluster down at the end")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    paths = Paths.default()
    work = (options.work_dir or paths.root / "demo").resolve()
    try:
        work.mkdir(parents=True, exist_ok=True)
        passed = Demo(paths, work).tell()
    except (Failed, LocalClusterError) as error:
        say(f"\nThe demo stopped: {error}\nThe same command works again.", "bold red")
        return getattr(error, "exit_code", 1)
    except KeyboardInterrupt:
        say("\nInterrupted. The same command works again; `make cluster-down` stops what runs.", "bold red")
        return 130
    if options.down:
        lifecycle.down(paths)
    else:
        say(f"The cluster stays up: kubectl --namespace {NAMESPACE} get ftj. `make cluster-down` stops it.")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
