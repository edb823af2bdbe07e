"""NaN, infinity and divergence end a run with the rows at fault, its last good checkpoint kept, and never as a zero."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, TrainerCallback

from finetune_api.outcome import Reason
from finetune_trainer.data.collate import Collator
from finetune_trainer.data.tokens import TokenRow
from finetune_trainer.errors import RunError
from finetune_trainer.publish import CheckpointStore
from finetune_trainer.storage import open_store
from finetune_trainer.tasks import causal_lm
from finetune_trainer.training import fit, trainer
from finetune_trainer.training.guard import name_rows
from finetune_trainer.training.run import execute
from finetune_trainer.training.scores import Scores
from tests.trainer.callbacks import add_to_trainers
from tests.trainer.tinyrun import run_file, session, uploading
from tests.trainer.written import write_rows

BAD_ROW = 7


def _rows(*lengths: int) -> list[TokenRow]:
    ids = [np.arange(start, start + length, dtype=np.int32) for start, length in enumerate(lengths, start=1)]
    return [TokenRow(row, row) for row in ids]


def test_rows_are_known_by_their_tokens(tmp_path: Path) -> None:
    """Padded or packed, however they are batched; a row that is not of the set is counted only."""
    rows = _rows(3, 5, 4, 2)
    padded = [Collator(0)([rows[2], rows[0]]), Collator(0)([rows[3]])]
    written = write_rows(tmp_path / "all", rows)
    assert name_rows(padded, written) == "rows.jsonl:1, rows.jsonl:3, rows.jsonl:4"
    packed = {
        "input_ids": torch.from_numpy(np.concatenate([rows[1].input_ids, rows[3].input_ids]))[None].long(),
        "position_ids": torch.tensor([[0, 1, 2, 3, 4, 0, 1]]),
    }
    assert name_rows([packed], written) == "rows.jsonl:2, rows.jsonl:4"
    assert name_rows(padded, write_rows(tmp_path / "one", rows[:1])) == "rows.jsonl:1"
    assert name_rows(padded, write_rows(tmp_path / "none", [])) == "one of 3 rows"


class _Watch(TrainerCallback):
    """Keeps the model, and every number that is logged."""

    def __init__(self) -> None:
        self.model: Any = None
        self.logged: list[float] = []
        self.spoil_at = 10**9

    def on_step_begin(self, _args: object, state: Any, _control: object, model: Any, **_: object) -> None:
        self.model = model
        if state.global_step + 1 == self.spoil_at:
            next(p for p in model.parameters() if p.requires_grad).register_hook(lambda grad: grad * float("inf"))

    def on_log(self, _args: object, _state: object, _control: object, logs: dict[str, float], **_: object) -> None:
        self.logged += [logs[name] for name in ("loss", "grad_norm", "eval_loss") if name in logs]

    def check(self) -> None:
        """The weights are good, and what was logged is."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        assert all(torch.isfinite(p).all() for p in trained)
        assert self.logged
        assert all(number > 0 for number in self.logged)


def _fails(run: Any, folder: Path) -> RunError:
    with uploading(run, folder / "work"), pytest.raises(RunError) as caught:
        execute(session(run, folder / "work"))
    assert not (folder / "out/manifest.json").exists()
    for line in (folder / "work/metrics.jsonl").read_text().splitlines():
        entry = json.loads(line, parse_constant=pytest.fail)  # JSON has no NaN
        assert entry.get("loss", 1.0) > 0
    assert json.loads((folder / "work/progress.json").read_text()).get("loss", 1.0) > 0
    return caught.value


def _newest(run: Any, folder: Path) -> Path:
    checkpoints = CheckpointStore(open_store(run.output.uri, run.storage), run.uid, lambda _: None)
    restored = checkpoints.restore_newest(folder / "restored")
    assert restored is not None
    return restored


@pytest.fixture
def is_bad(model: Path) -> Callable[[Any], bool]:
    """Tells by its text whether a batch holds row 7, whose question is `Say 6.`."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return lambda batch: any(f"Say {BAD_ROW - 1}." in text for text in tokenizer.batch_decode(batch["input_ids"]))


def test_a_row_that_gives_nan_is_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_bad: Callable[[Any], bool]
) -> None:
    """The loss of one row is NaN: the run ends in that very micro-batch of two rows, and keeps good weights."""
    run = run_file(tmp_path, model, checkpoints={"everySteps": 1}, maxSteps=5)
    real = causal_lm.nll_sum

    def poisoned(model: Any, batch: Any, **more: Any) -> torch.Tensor:
        return real(model, batch, **more) * (float("nan") if is_bad(batch) else 1.0)

    monkeypatch.setattr(causal_lm, "nll_sum", poisoned)
    watch = _Watch()
    add_to_trainers(monkeypatch, watch)
    error = _fails(run, tmp_path)
    assert error.reason is Reason.NON_FINITE_LOSS
    found = re.fullmatch(
        r"the loss of step (\d) is nan \(.*\), in train\.jsonl:(\d+), train\.jsonl:(\d+)", error.message
    )
    assert found is not None, error.message
    assert str(BAD_ROW) in found.groups()[1:]
    watch.check()
    assert _newest(run, tmp_path).name == f"checkpoint-{int(found[1]) - 1}"


def test_a_gradient_that_is_infinite(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite loss with an infinite gradient ends the run before the optimizer sees it, with the rows of the step."""
    run = run_file(tmp_path, model, checkpoints={"everySteps": 1})
    watch = _Watch()
    watch.spoil_at = 3
    add_to_trainers(monkeypatch, watch)
    error = _fails(run, tmp_path)
    assert error.reason is Reason.NON_FINITE_LOSS
    assert re.match(
        r"the gradient norm of step 3 is (nan|inf) .*, in (train\.jsonl:\d+, ){3}train\.jsonl:\d+", error.message
    )
    watch.check()
    assert len([number for number in watch.logged if number]) == 2 * 2
    assert _newest(run, tmp_path).name == "checkpoint-2"


@pytest.mark.parametrize("where", [fit, trainer])
def test_an_evaluation_that_is_nan(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any) -> None:
    """In the middle of training or outside of it, it is no result."""
    run = run_file(tmp_path, model)
    run = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"every_steps": 2})})
    monkeypatch.setattr(where, "measure", lambda *_: Scores(float("nan")))
    with uploading(run, tmp_path / "work"), pytest.raises(RunError, match=r"evaluation loss of .* is nan") as caught:
        execute(session(run, tmp_path / "work"))
    assert caught.value.reason is Reason.NON_FINITE_LOSS


class _Blow(TrainerCallback):
    """Makes the adapter larger after each step from the 16th on, and knows which step is under way."""

    step = 0

    def on_step_begin(self, _args: object, state: Any, _control: object, **_: object) -> None:
        self.step = state.global_step + 1

    def on_step_end(self, _args: object, state: Any, _control: object, model: Any, **_: object) -> None:
        if state.global_step >= 16:
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.mul_(1.6)


def test_a_run_that_diverges_keeps_its_last_good_checkpoint(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Diverged, and `keep: 1` did not cost the last checkpoint from before; the rows of the worst step are named."""
    saves = {"everySteps": 2, "keep": 1}
    limits = {"factor": "1.1", "steps": 10}
    run = run_file(tmp_path, model, maxSteps=30, epochs=99, divergence=limits, checkpoints=saves)
    blow, tokenizer, real = _Blow(), AutoTokenizer.from_pretrained(model), causal_lm.nll_sum
    lines: dict[int, set[int]] = {}

    def noting(net: Any, batch: Any, **more: Any) -> torch.Tensor:
        """The row of `Say 7.` is in line 8."""
        if net.training:
            texts = tokenizer.batch_decode(batch["input_ids"])
            lines.setdefault(blow.step, set()).update(
                int(n) + 1 for text in texts for n in re.findall(r"Say (\d+)", text)
            )
        return real(net, batch, **more)

    monkeypatch.setattr(causal_lm, "nll_sum", noting)
    add_to_trainers(monkeypatch, blow)
    with uploading(run, tmp_path / "work") as uploads, pytest.raises(RunError, match="training loss went up") as caught:
        execute(session(run, tmp_path / "work"))
    assert caught.value.reason is Reason.DIVERGED
    stored = uploads.finish(time.sleep, None, 0)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "work/metrics.jsonl").read_text().splitlines()]
    kept = sorted(path.name for path in (tmp_path / "out/.finetune/u1/checkpoints").iterdir())
    assert kept == [f"step-{stored.good_step:08d}", f"step-{stored.step:08d}"]
    assert stored.good_step < stored.step <= len(losses) < 30
    assert losses[stored.good_step - 1] < min(losses[-5:])
    highest = max(losses[stored.good_step :])
    where = re.search(r"highest at step (\d+), (\S+), in (train\.jsonl:\d+.*)$", caught.value.message)
    assert where is not None
    assert (int(where[1]), where[2]) == (losses.index(highest) + 1, f"{highest:.4f}")
    assert set(map(int, re.findall(r"train\.jsonl:(\d+)", where[3]))) == lines[int(where[1])]
