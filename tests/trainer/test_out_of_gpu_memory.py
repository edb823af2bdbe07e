"""A full GPU is told as that, and half the micro-batch with twice the accumulation is the same training."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from transformers import TrainerCallback

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_trainer.errors import RunError
from finetune_trainer.tasks import causal_lm
from finetune_trainer.training.failures import explain
from finetune_trainer.training.hooks import Metrics, callbacks, make_model
from tests.tiny import jsonl, rows
from tests.trainer.callbacks import add_to_trainers
from tests.trainer.test_extensions import named, write_package
from tests.trainer.test_worker_process import outcome, work_here
from tests.trainer.tinyrun import execute, run_file, session

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    distributed.DistBackendError("ncclUnhandledCudaError. Last error:\nCuda failure 2 'out of memory'"),
]


@pytest.mark.parametrize("error", FULL, ids=lambda error: str(error)[:40])
def test_every_way_to_say_it(error: Exception, model: Path, tmp_path: Path) -> None:
    """OutOfGPUMemory with the text, what was tried, and the next smaller micro-batch that divides the batch."""
    run = run_file(tmp_path, model, batchSize=30, microBatchSize=15, maxLength=512)
    told = explain(error, run, tmp_path)
    assert told.reason is Reason.OUT_OF_GPU_MEMORY
    tried = "training.microBatchSize 15 (accumulated 2 times), maxLength 512, gradientCheckpointing false"
    assert told.message.startswith(f"out of GPU memory with {tried}, evaluation.batchSize 4: ")
    assert " ".join(str(error).split()) in told.message
    assert told.hint == "Set training.microBatchSize to 6 (now 15); the result stays the same."


def test_other_errors_are_none(model: Path, tmp_path: Path) -> None:
    """A CUDA error of another kind is a bug, and the disk's are the disk's."""
    run = run_file(tmp_path, model)
    other = RuntimeError("CUDA error: device-side assert triggered")
    assert explain(other, run, tmp_path).reason is Reason.INTERNAL_ERROR
    lost = distributed.DistBackendError("NCCL error: remote process exited")
    assert explain(lost, run, tmp_path).reason is Reason.PEER_LOST


_CODE = "import torch\n{head}    raise torch.OutOfMemoryError('tried to allocate 2 GiB')\n"
HOOKS: dict[str, tuple[str, str, Callable[[Any, Path], object]]] = {
    "callbacks": (
        "import transformers\nclass it(transformers.TrainerCallback):\n  def on_step_end(self, *a, **k):\n",
        "finetune.callbacks",
        lambda session, _: callbacks(session)[0].on_step_end(),
    ),
    "metrics": (
        "def it(**_):\n",
        "finetune.metrics",
        lambda session, _: Metrics(session, None, []).measure(torch.nn.Linear(1, 1)),
    ),
    "model": (
        "def it(**_):\n",
        "finetune.models",
        lambda _, folder: make_model("mine", folder, torch.float32, torch.device("cpu")),
    ),
}


@pytest.mark.parametrize("field", HOOKS)
def test_in_code_of_the_user(field: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the GPU's memory there, too: not a mistake that is final. The code is named."""
    head, group, call = HOOKS[field]
    write_package(tmp_path, group, _CODE.format(head=head))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    run = named(run_file(tmp_path, model), **{field: "mine" if field == "model" else ["mine"]})
    with pytest.raises(RunError) as caught:
        call(session(run, tmp_path / "work"), tmp_path)

    told = explain(caught.value, run, tmp_path)
    assert told.reason is Reason.OUT_OF_GPU_MEMORY
    assert f"extensions.{field}: mine failed: OutOfMemoryError: tried to allocate 2 GiB" in told.message


class _Step(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Knows which step is under way."""

    now = 0

    def on_step_begin(self, _args: object, state: Any, _control: object, **_: object) -> None:
        self.now = state.global_step + 1


def _losses(work: Path) -> dict[int, float]:
    entries = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    return {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}


def test_half_the_micro_batch_is_the_same_training(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses are those of a run that had memory enough, within float noise.

    Memory runs out in step 4, after the checkpoint of step 2: exit 80. With half the micro-batch the run goes on from
    there. The last batch of an epoch is a small one, and rows have few or many trained tokens.
    """

    def of(folder: Path, size: int) -> RunFile:
        folder.mkdir(exist_ok=True)
        more = {"batchSize": 8, "microBatchSize": size, "checkpoints": {"everySteps": 2}}
        run = run_file(folder, model, method={"dropout": "0"}, **more)
        uneven = rows(20)
        for number, row in enumerate(uneven):
            row["messages"][1]["content"] += " Yes." * (number % 5 * number)  # type: ignore[index]
        (folder / "train.jsonl").write_text(jsonl(uneven))
        return run

    execute(of(tmp_path / "enough", 4), tmp_path / "enough/work")

    real, step = causal_lm.nll_sum, _Step()
    sizes: list[tuple[int, int]] = []

    def on_a_small_gpu(model: Any, batch: Any, **more: Any) -> torch.Tensor:
        if model.training:
            sizes.append((step.now, len(batch["input_ids"])))
            if step.now >= 4 and len(batch["input_ids"]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return real(model, batch, **more)

    monkeypatch.setattr(causal_lm, "nll_sum", on_a_small_gpu)
    add_to_trainers(monkeypatch, step)
    folder = tmp_path / "scarce"
    assert work_here(of(folder, 4), folder) == 80
    told = outcome(folder)
    assert (told.reason, told.step) == (Reason.OUT_OF_GPU_MEMORY, 3)
    assert "training.microBatchSize 4 (accumulated 2 times)" in told.message
    assert _losses(folder / "work").keys() == {1, 2, 3}

    sizes.clear()
    assert work_here(of(folder, 2), folder) == 0
    assert outcome(folder).reason is Reason.PUBLISHED
    assert [size for number, size in sizes if number == 4] == [2, 2, 2, 2]
    assert min(number for number, _ in sizes) == 3  # the checkpoint's step 2 was the last
    assert _losses(folder / "work") == pytest.approx(_losses(tmp_path / "enough/work"), rel=1e-5)
