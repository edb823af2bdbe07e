"""Label smoothing spreads a share of each trained token's target evenly, and only while training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_api.v1alpha1 import Method
from finetune_trainer.data.collate import Collator
from finetune_trainer.data.tokens import IGNORED, TokenRow
from finetune_trainer.fast import loss
from finetune_trainer.methods.adapter import add_adapter
from finetune_trainer.training.loss import nll_sum
from finetune_trainer.training.model import load_base
from tests.trainer.tinyrun import execute, run_file


@pytest.mark.parametrize("chunk", [1, 7 * 320, 2**24])
@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_the_loss_in_chunks_is_the_definition(chunk: int, smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """(1 - s) of the target's NLL and s of the mean over the vocabulary's; the gradient is that of the same sum."""
    monkeypatch.setitem(loss.CHUNK_ELEMENTS, "cpu", chunk)
    torch.manual_seed(1)
    hidden, weight = torch.randn(2, 10, 16, requires_grad=True), torch.randn(320, 16)
    targets = torch.randint(0, 320, (2, 10))
    targets[0, :4] = IGNORED

    found = loss.nll_sum(hidden, weight, targets, IGNORED, smoothing)
    (gradient,) = torch.autograd.grad(found * 0.5, hidden)

    exact = hidden.detach().double().requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    for line in range(2):
        for place in range(10):
            if targets[line, place] != IGNORED:
                nll = -(weight.double() @ exact[line, place]).log_softmax(0)
                expected = expected + (1 - smoothing) * nll[targets[line, place]] + smoothing * nll.sum() / 320
    (expected_gradient,) = torch.autograd.grad(expected * 0.5, exact)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-5)


def test_of_a_model_it_is_torchs_own(model: Path) -> None:
    """With a padded batch and rows of which a part is trained: torch's cross_entropy over all trained tokens."""
    method = Method.model_validate({"type": "LoRA", "rank": 4})
    tuned = add_adapter(load_base(model, method, torch.float32, torch.device("cpu")), method, 1)
    ids = [np.arange(5, 11, dtype=np.int32), np.arange(11, 14, dtype=np.int32)]
    batch = Collator(0)([TokenRow(line, np.where(np.arange(len(line)) < 2, IGNORED, line)) for line in ids])

    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = tuned(**inputs).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(
        logits, batch["labels"][:, 1:].flatten(), ignore_index=IGNORED, reduction="sum", label_smoothing=0.2
    )
    found = nll_sum(tuned, batch, smoothing=0.2)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert nll_sum(tuned, batch).item() != pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.long
def test_a_run_trains_smoothed_and_evaluates_plain(model: Path, tmp_path: Path) -> None:
    """The fast loss and the plain one log the same smoothed losses; the held-out loss before is what it always is."""

    def done(name: str, **training: Any) -> tuple[list[float], float | None]:
        folder = tmp_path / name
        folder.mkdir()
        outcome = execute(run_file(folder, model, method={"dropout": "0"}, maxSteps=3, **training), folder / "work")
        entries = [json.loads(line) for line in (folder / "work/metrics.jsonl").read_text().splitlines()]
        return [entry["loss"] for entry in entries if "loss" in entry], outcome.loss_before

    plain, before = done("plain")
    fast, before_fast = done("fast", labelSmoothing="0.5")
    slow, before_slow = done("slow", labelSmoothing="0.5", fastPaths=False)

    assert fast == pytest.approx(slow, rel=1e-4)
    assert abs(fast[0] - plain[0]) > 1e-3
    assert before_fast == before_slow == before
