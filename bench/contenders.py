"""One contender in a process of its own: trains when told to, reports each segment, waits.

    python -m bench.contenders NAME FOLDER LENGTH        commands on stdin: a number of steps a line

The libraries are imported and the model is loaded once; between two segments the process sleeps inside a callback of
the Trainer's loop. What is measured is the Trainer's step: forward, backward, clipping, optimizer.
"""

import json
import os
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from bench.machine import give_back, memory, reset_peak
from finetune_api.run import RunFile
from finetune_trainer.data.collate import PackCollator
from finetune_trainer.data.packing import Pack
from finetune_trainer.data.tokens import TokenRow
from finetune_trainer.methods.adapter import add_adapter
from finetune_trainer.publish import Outbox
from finetune_trainer.tasks.causal_lm import CausalLM
from finetune_trainer.training.arguments import training_arguments
from finetune_trainer.training.model import load_base
from finetune_trainer.training.paths import choose_paths
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.reporter import Reporter
from finetune_trainer.training.saving import Saver
from finetune_trainer.training.session import Session
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.training.trainer import SupervisedTrainer
from finetune_trainer.workdir import WorkDir

STEPS = 100_000
RANK, ALPHA, RATE, SEED = 8, 16, 1e-4, 42


class Gate(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Waits for a number of steps, lets the loop take them, says what they took."""

    def __init__(self, model: Any) -> None:
        self.left = 0
        self.steps: list[dict[str, float]] = []
        self._ids: list[torch.Tensor] = []
        self._start = (0.0, 0.0)
        self._idle = 0
        model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: self._ids.append(inputs[0]))

    def on_step_begin(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Sleep until there is work."""
        if not self.left:
            self._wait()
        self._ids.clear()
        self._start = time.perf_counter(), time.process_time()

    def on_step_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """One step is done."""
        ids = torch.cat([ids.flatten() for ids in self._ids])
        wall, cpu = time.perf_counter() - self._start[0], time.process_time() - self._start[1]
        ids_sum = zlib.crc32(ids.numpy().tobytes())
        self.steps.append({"seconds": wall, "cpu_seconds": cpu, "tokens": len(ids), "ids": ids_sum})
        self.left -= 1

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, float], **_: Any) -> None:
        """The step's loss."""
        if "loss" in logs and self.steps:
            self.steps[-1]["loss"] = float(logs["loss"])

    def _wait(self) -> None:
        pid = os.getpid()
        if self._idle:
            peak = memory(pid, "VmHWM")
            print(json.dumps({"steps": self.steps, "extra": peak - self._idle, "peak": peak}), flush=True)
        else:
            give_back()
            self._idle = memory(pid, "VmRSS")
            reset_peak(pid)
            print("ready", flush=True)
        self.steps = []
        line = sys.stdin.readline().strip()
        if not line:
            os._exit(0)  # in the middle of a training loop there is nothing to tidy up
        self.left = int(line)


def ours(folder: Path, length: int, precision: str, *, checkpointing: bool) -> Any:
    """The trainer as `fit` puts it together, on given packs, with gradient checkpointing or not."""
    run = RunFile.from_json(json.dumps(_run(folder, length, precision, checkpointing)))
    work = WorkDir(folder / f"work-{precision}-{length}")
    session = Session(run, work, StopSwitch(), Processes(), Reporter("bench", work, talks=False))
    dtype = torch.bfloat16 if precision == "BFloat16" else torch.float32
    model = add_adapter(load_base(folder / "model", run.method, dtype, torch.device("cpu")), run.method, SEED)
    packs = _packs(folder, length)
    choose_paths(session, model, [row for pack in packs for row in pack.rows])
    return SupervisedTrainer(
        session=session,
        saver=Saver(Outbox(work.outbox), session.reporter, session.processes, beside=True),
        rows=cast("Any", packs),  # only to name rows in errors
        task=CausalLM(),
        evaluation_batch_size=1,
        model=_same_start(model, folder),
        args=training_arguments(run, work.checkpoints, dtype),
        data_collator=PackCollator(),
        train_dataset=packs,
    )


def plain(folder: Path, length: int, precision: str, **_: bool) -> Any:
    """Trainer of transformers and PEFT with nothing added, on the same packs."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32), _lora())
    return Trainer(
        model=_same_start(model, folder),
        args=TrainingArguments(**_arguments(folder / f"plain-{precision}"), bf16=precision == "BFloat16"),
        data_collator=PackCollator(),
        train_dataset=_packs(folder, length),
    )


def trl(folder: Path, length: int, _precision: str, **_: bool) -> Any:
    """TRL with `packing=True` and its defaults; it packs the same tokenised rows itself."""
    from datasets import Dataset  # noqa: PLC0415
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    trainer = SFTTrainer(
        model=str(folder / "model"),
        args=SFTConfig(**_arguments(folder / "trl"), packing=True, max_length=length, completion_only_loss=True),
        train_dataset=Dataset.from_list(json.loads((folder / "rows.json").read_text())),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=_lora(),
    )
    _same_start(trainer.model, folder)
    return trainer


CONTENDERS: dict[str, tuple[Callable[..., Any], str]] = {
    "trl": (trl, ""),
    "plain-bf16": (plain, "BFloat16"),
    "ours-bf16": (ours, "BFloat16"),
    "ours-bf16-gc": (ours, "BFloat16"),
    "plain-fp32": (plain, "Float32"),
    "ours-fp32": (ours, "Float32"),
}


def _lora() -> Any:
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear"
    )


def _arguments(folder: Path) -> dict[str, Any]:
    """What all are told alike; everything else is each one's default."""
    return {
        "output_dir": str(folder), "max_steps": STEPS, "per_device_train_batch_size": 1, "learning_rate": RATE,
        "lr_scheduler_type": "constant", "seed": SEED, "data_seed": SEED, "use_cpu": True, "report_to": [],
        "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }  # fmt: skip


def _run(folder: Path, length: int, precision: str, checkpointing: bool) -> dict[str, Any]:
    return {
        "name": "bench", "namespace": "local", "uid": "bench", "storage": {}, "evaluation": {},
        "model": {"uri": f"file://{folder}/model"},
        "dataset": {"train": {"uri": f"file://{folder}/rows.jsonl"}},
        "method": {"type": "LoRA", "rank": RANK, "alpha": ALPHA, "dropout": "0"},
        "training": {
            "batchSize": 1, "maxSteps": STEPS, "learningRate": str(RATE), "scheduler": "Constant", "warmupRatio": "0",
            "maxLength": length, "packing": True, "precision": precision, "seed": SEED,
            "checkpoints": {"everySteps": STEPS}, "gradientCheckpointing": checkpointing,
        },
        "output": {"uri": f"file://{folder}/out"},
    }  # fmt: skip


def _packs(folder: Path, length: int) -> list[Pack]:
    return [
        Pack(tuple(TokenRow(*_arrays(ids, labels)) for ids, labels in pack))
        for pack in json.loads((folder / f"packs-{length}.json").read_text())
    ]


def _arrays(*lists: list[int]) -> list[Any]:
    import numpy as np  # noqa: PLC0415

    return [np.asarray(values, dtype=np.int32) for values in lists]


def _same_start(model: Any, folder: Path) -> Any:
    """Everybody's adapter starts with the same numbers: those of the first who comes."""
    file = folder / "start.pt"
    adapter = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not file.exists():
        torch.save({name: p.detach().clone() for name, p in adapter.items()}, file)
    start = torch.load(file, weights_only=True)
    if start.keys() != adapter.keys():
        raise SystemExit("The contenders train different parameters.")
    with torch.no_grad():
        for name, parameter in adapter.items():
            parameter.copy_(start[name])
    return model


def main(name: str, folder: str, length: str) -> None:
    """Build the contender and run its loop until stdin ends."""
    from transformers import PrinterCallback  # noqa: PLC0415

    build, precision = CONTENDERS[name]
    trainer = build(Path(folder), int(length), precision, checkpointing=name.endswith("-gc"))
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Gate(trainer.model))
    trainer.train()


if __name__ == "__main__":
    main(*sys.argv[1:])
