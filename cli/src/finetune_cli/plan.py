"""What `finetune run` is going to do: the folder, the run file, the command. Decides everything, starts nothing."""

import importlib.util
import os
import re
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from finetune_api.names import Stage
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import FineTuneJob
from finetune_cli import jobfile
from finetune_cli.errors import UsageError

NAMESPACE = "local"
_UID_NAMESPACE = uuid.UUID("6d0f4bd5-3f0a-4b1e-9b2b-1c1f6f0e7a55")
_NEEDED = ("torch", "transformers", "peft", "bitsandbytes", "boto3")


@dataclass(frozen=True)
class Plan:
    """One run on this machine."""

    run: RunFile
    folder: Path
    remarks: list[str] = field(default_factory=list)
    """What differs from a cluster, in sentences."""
    environment: dict[str, str] = field(default_factory=dict)
    """Changes to the environment of the trainer."""

    @property
    def run_file(self) -> Path:
        """What the trainer reads."""
        return self.folder / "run.json"

    @property
    def progress_file(self) -> Path:
        """What the trainer writes on its way."""
        return self.folder / "progress.json"

    @property
    def verdict_file(self) -> Path:
        """The trainer's termination message."""
        return self.folder / "verdict.json"

    @property
    def log_file(self) -> Path:
        """Everything the trainer says."""
        return self.folder / "trainer.log"

    @property
    def command(self) -> list[str]:
        """The very trainer that the image starts."""
        return [
            *(sys.executable, "-m", "finetune_trainer", "--run-file", str(self.run_file)),
            *("--work-dir", str(self.folder), "--termination-log", str(self.verdict_file), "--port", "0"),
        ]


def make(job: FineTuneJob, folder: Path | None, stage: Stage = Stage.TRAIN) -> Plan:
    """Plan the run of a job.

    Args:
        job: As read from its file.
        folder: The work folder; None for one of the job's own in the user's cache.
        stage: What of the job is done; training prepares by itself where nobody has.

    Raises:
        UsageError: This machine cannot run it.
    """
    _check_uris(job)
    _check_trainer()
    run = RunFile.of(job, namespace=NAMESPACE, uid=uid(job), stage=stage)
    remarks = []
    if job.spec.storage.secret_name and any(uri.startswith("s3://") for uri in jobfile.uris(job)):
        remarks.append(
            f"storage.secretName ({job.spec.storage.secret_name}) is for a cluster: here the credentials come from "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws."
        )
    folder = (folder or _cache() / f"{job.metadata.name}-{run.uid[:8]}").resolve()
    return Plan(run, folder, remarks) if stage is Stage.PREPARE else _on_this_machine(job, Plan(run, folder, remarks))


def _on_this_machine(job: FineTuneJob, plan: Plan) -> Plan:
    """Train on the GPUs that are here, or on the CPU."""
    gpus, wanted = gpus_here(), job.spec.resources.gpus
    processes = _processes(job, gpus)
    remarks, environment = list(plan.remarks), {} if wanted else {"CUDA_VISIBLE_DEVICES": ""}
    if processes < wanted:
        training_on = f"{processes} of them" if gpus else "the CPU"
        remarks.append(
            f"The job asks for {wanted} GPU{'s' * (wanted > 1)} and this machine has {len(gpus) or 'none'}: training "
            f"on {training_on}. The result follows the same recipe; it may take much longer."
        )
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[:processes])
    if job.spec.training.auto_micro_batch_size:
        remarks.append("training.autoMicroBatchSize is for a cluster: here microBatchSize holds.")
    if job.spec.resources.nodes > 1:
        remarks.append(
            f"The job asks for {job.spec.resources.nodes} nodes and this machine is one: it takes whole batches."
        )
    gpus_taken = min(processes, wanted, len(gpus))
    shape = {"processes": processes, "nodes": 1, "training_nodes": 1, "gpus": gpus_taken}
    return Plan(plan.run.model_copy(update=shape), plan.folder, remarks, environment)


def uid(job: FineTuneJob) -> str:
    """The same for the same job, so that a run resumes; another for a changed one, so that it starts anew."""
    alone = {"processes": 1, "nodes": 1, "training_nodes": 1, "gpus": 0}
    recipe = RunFile.of(job, namespace=NAMESPACE, uid="-").model_copy(update=alone)
    return str(uuid.uuid5(_UID_NAMESPACE, recipe.to_json()))


def gpus_here() -> list[str]:
    """The GPUs that a process started here would see, by CUDA's name for them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return sorted(entry.name[6:] for entry in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", entry.name))


def _processes(job: FineTuneJob, gpus: list[str]) -> int:
    """One per GPU, as many as are here and as the batch can be shared among."""
    training = job.spec.training
    candidates = range(min(job.spec.resources.gpus, len(gpus)), 1, -1)
    return next((n for n in candidates if training.batch_size % (training.micro_batch_size * n) == 0), 1)


def _check_uris(job: FineTuneJob) -> None:
    for uri in jobfile.uris(job):
        if uri.startswith("pvc://"):
            raise UsageError(f"{uri} is a volume of a cluster", "give a file://, s3:// or hf:// URI to run here")


def _check_trainer() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"The trainer needs {', '.join(missing)}, which this Python ({sys.executable}) has not.",
            "pip install 'finetune-operator[trainer,cli]'",
            exit_code=1,
        )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune"
