"""A checkpoint written beside the training is what the Trainer would have written at that step, byte for byte."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback

from finetune_trainer.training import saving
from tests.trainer.callbacks import add_to_trainers
from tests.trainer.methodcases import CASES
from tests.trainer.tinyrun import execute, run_file

UNREAD = {"training_args.bin", "README.md"}
"""The Trainer and peft write them; storage never gets them."""
PLAIN = {"rank": 16, "dropout": "0.05"}
"""The spec's defaults, in place of the tiny run's own."""
LONG = pytest.mark.long
SPECS: dict[str, dict[str, Any]] = {
    "qlora": {"method": CASES["qlora"].method},
    "lora-with-head": {"method": CASES["lora-with-head"].method},
    "dora": {"method": CASES["dora"].method},
    "int8": {"method": CASES["int8"].method},
    "lora-plus": {"method": CASES["lora-plus"].method, "scheduler": "WarmupStableDecay"},
    "pissa": {"method": CASES["pissa"].method},
    "ia3": {"method": {**PLAIN, **CASES["ia3"].method}},
    "adalora": {"method": {**PLAIN, **CASES["adalora"].method}},
    "8-bit-optimizer": {"optimizer": {"type": "AdamW8bit"}},
    "adafactor": {"optimizer": {"type": "Adafactor"}},
}


class _Both(TrainerCallback):
    """Has every checkpoint saved by the Trainer itself, too, and ours written again when training has ended."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.theirs, self.ours = folder / "theirs", folder / "ours"
        self.steps: list[int] = []
        self._late: list[Any] = []
        real, both = saving.Snapshot.of, self

        def of(trainer: Any) -> Any:
            snapshot, step = real(trainer), trainer.state.global_step
            output, limit = trainer.args.output_dir, trainer.args.save_total_limit
            trainer.args.output_dir, trainer.args.save_total_limit = str(both.theirs), None
            generator = torch.get_rng_state()
            Trainer._save_checkpoint(trainer, trainer.model, None)
            assert torch.equal(generator, torch.get_rng_state())
            trainer.args.output_dir, trainer.args.save_total_limit = output, limit
            both.steps.append(step)
            both._late.append((snapshot, both.ours / f"checkpoint-{step}"))
            return snapshot

        monkeypatch.setattr(saving.Snapshot, "of", of)

    def on_train_end(self, *_: object, **__: object) -> None:
        for snapshot, folder in self._late:
            folder.mkdir(parents=True)
            snapshot.write(folder)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("case", [name if name == "qlora" else pytest.param(name, marks=LONG) for name in SPECS])
def test_as_the_trainer_writes_it(case: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshots of three steps, each written only after the last step, hold the Trainer's own files of those steps.

    The random states are the Trainer's doing in both.
    """
    both = _Both(tmp_path, monkeypatch)
    add_to_trainers(monkeypatch, both)
    execute(run_file(tmp_path, model, checkpoints={"everySteps": 2}, **SPECS[case]), tmp_path / "work")
    assert both.steps == [2, 4, 6]
    for step in both.steps:
        theirs = _files(both.theirs / f"checkpoint-{step}")
        ours = _files(both.ours / f"checkpoint-{step}")
        rest = {name: content for name, content in theirs.items() if name not in {*UNREAD, "rng_state.pth"}}
        assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"} <= rest.keys()
        assert ours.keys() == rest.keys()
        assert [name for name in rest if ours[name] != rest[name]] == []
    # In place or not, every step has left its mark.
    weights = {_files(both.ours / f"checkpoint-{step}")["adapter_model.safetensors"] for step in both.steps}
    assert len(weights) == 3
