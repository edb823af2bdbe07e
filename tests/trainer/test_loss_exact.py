"""The loss weighs every trained token the same, and pads, accumulation and checkpointing do not change it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes.nn import modules as bnb_modules
from safetensors.torch import load_file

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Method
from finetune_trainer.data.collate import Collator
from finetune_trainer.data.tokens import IGNORED, TokenRow
from finetune_trainer.errors import RunError
from finetune_trainer.methods.adapter import add_adapter
from finetune_trainer.tasks import causal_lm
from finetune_trainer.tasks.causal_lm import CausalLM
from finetune_trainer.tasks.measure import measure
from finetune_trainer.training.loss import nll_sum
from finetune_trainer.training.model import load_base
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.sums import sum_over_rows
from tests.trainer.tinyrun import execute, run_file

END = 2
"""The tiny tokenizer's end-of-turn token; here it serves as the pad, too, as in many real models."""


@pytest.fixture(scope="module")
def base(model: Path) -> Any:
    """An NF4 base, loaded."""
    return load_base(model, Method(), torch.float32, torch.device("cpu")).eval()


def token_rows() -> list[TokenRow]:
    """Rows of very different length and share of trained tokens, each ending with a trained end token."""
    random = np.random.default_rng(3)
    rows = []
    for length, trained in ((5, 1), (40, 3), (17, 16), (9, 4), (30, 29)):
        ids = random.integers(3, 250, length).astype(np.int32)
        ids[-1] = END
        labels = np.full(length, IGNORED, dtype=np.int32)
        labels[-trained:] = ids[-trained:]
        rows.append(TokenRow(ids, labels))
    return rows


def by_hand(model: Any, rows: list[TokenRow]) -> tuple[float, int]:
    """Sum of NLL and number of trained tokens, one row and one token at a time, without padding."""
    total, count = 0.0, 0
    for row in rows:
        with torch.inference_mode():
            probabilities = model(torch.from_numpy(row.input_ids).long()[None]).logits[0].double().log_softmax(-1)
        for position in range(1, len(row)):
            if row.labels[position] != IGNORED:
                total -= float(probabilities[position - 1, row.labels[position]])
                count += 1
    return total, count


def test_pads_are_told_by_position_not_by_id() -> None:
    """A trained end token keeps its label though it has the pad's id; pads have attention 0 and no label."""
    rows = token_rows()[:2]
    batch = Collator(END)(rows)
    assert batch["input_ids"].shape == (2, 40)
    assert batch["input_ids"][0, 5:].eq(END).all()
    assert batch["labels"][0].tolist() == [IGNORED] * 4 + [END] + [IGNORED] * 35
    assert batch["attention_mask"].sum(dim=1).tolist() == [5, 40]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_evaluation_loss_is_the_mean_over_tokens(base: Any, batch_size: int) -> None:
    """However rows are batched; the mean of row means would be another number."""
    rows = token_rows()
    total, count = by_hand(base, rows)
    assert measure(CausalLM(), base, rows, Collator(END), batch_size, Processes()).loss == pytest.approx(
        total / count, abs=1e-5
    )
    means = [by_hand(base, [row])[0] / row.trained for row in rows]
    assert abs(sum(means) / len(means) - total / count) > 1e-3


@pytest.mark.parametrize("sparse_head", [True, False])
def test_sparse_head_gives_the_models_own_loss(base: Any, sparse_head: bool) -> None:
    """Computing logits only where something is trained gives what transformers computes from all of them."""
    batch = Collator(END)(token_rows())
    with torch.inference_mode():
        ours = nll_sum(base, batch, sparse_head=sparse_head)
        theirs = base(**batch).loss * sum(row.trained for row in token_rows())
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    "changed",
    [{"microBatchSize": 4}, {"microBatchSize": 1}, {"gradientCheckpointing": True}, {"fastPaths": False}],
)
def test_memory_settings_do_not_change_the_result(changed: dict[str, Any], model: Path, tmp_path: Path) -> None:
    """Micro-batch size, checkpointing and fast paths change memory and speed; trained weights agree to rounding."""
    weights = []
    for name, more in (("plain", {}), ("changed", changed)):
        place = tmp_path / name
        place.mkdir()
        execute(run_file(place, model, method={"dropout": "0"}, maxSteps=3, **more), place / "work")
        weights.append(load_file(place / "out/adapter_model.safetensors"))
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=2e-4), name


def test_base_bytes_are_the_same_before_and_after(model: Path) -> None:
    """Training moves adapters and nothing else: every frozen tensor keeps its bytes, 4-bit ones and norms alike."""
    tuned = add_adapter(load_base(model, Method(), torch.float32, torch.device("cpu")), Method(rank=4), 1)
    frozen = {n: p.detach().clone() for n, p in tuned.named_parameters() if "lora_" not in n}
    assert any(tensor.dtype is torch.uint8 for tensor in frozen.values())
    before = {n: p.detach().clone() for n, p in tuned.named_parameters() if "lora_B" in n}
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        nll_sum(tuned.train(), Collator(END)(token_rows())).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = dict(tuned.named_parameters())
    assert all(torch.equal(tensor, after[name]) for name, tensor in frozen.items())
    assert all(not torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_an_evaluation_changes_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The adapter's gradient and all bytes of the base, scales of the 4-bit blocks too, are the same after it.

    On a CPU with AVX512-BF16 bitsandbytes would pack the weights anew; here every CPU is said to be one.
    """
    monkeypatch.setattr(bnb_modules, "has_avx512bf16", lambda: True)
    base = load_base(model, Method(), torch.float32, torch.device("cpu"))
    tuned = add_adapter(base, Method(rank=4, dropout="0"), 1)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)  # at zero nothing would flow through A

    def stored() -> dict[str, torch.Tensor]:
        weights = [(n, m.weight) for n, m in tuned.named_modules() if isinstance(m, bnb_modules.Linear4bit)]
        assert weights
        bytes_of = {name: weight.data.clone() for name, weight in weights}
        return bytes_of | {f"{name} scales": weight.quant_state.absmax.clone() for name, weight in weights}

    def gradients() -> dict[str, torch.Tensor]:
        tuned.zero_grad()
        nll_sum(tuned.train(), Collator(END)(token_rows())).backward()
        return {n: p.grad.clone() for n, p in tuned.named_parameters() if p.grad is not None}

    bytes_before, gradients_before = stored(), gradients()
    measure(CausalLM(), tuned, token_rows(), Collator(END), 2, Processes())
    for before, after in ((bytes_before, stored()), (gradients_before, gradients())):
        assert before.keys() == after.keys()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_loss_that_is_not_finite_ends_the_run(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with its step, and nothing is published."""
    run = run_file(tmp_path, model, maxSteps=4)
    real = causal_lm.nll_sum
    calls = 0  # 2 of them measure the base model

    def poisoned(*arguments: Any, **more: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return real(*arguments, **more) * (float("nan") if calls > 6 else 1.0)

    monkeypatch.setattr(causal_lm, "nll_sum", poisoned)
    with pytest.raises(RunError, match="the loss of step 3 is nan") as caught:
        execute(run, tmp_path / "work")
    assert caught.value.reason is Reason.NON_FINITE_LOSS
    assert not (tmp_path / "out/manifest.json").exists()


class Watched(Sequence[TokenRow]):
    """Rows that note when one is read."""

    def __init__(self, rows: list[TokenRow], seen: list[int]) -> None:
        self._rows = rows
        self._seen = seen
        self.lengths = [len(row) for row in rows]

    def __len__(self) -> int:
        """As many as there are."""
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """Read one."""
        self._seen.append(index)
        return self._rows[index]


def test_rows_are_read_when_their_batch_is() -> None:
    """Memory does not grow with the held-out rows: no row is read before the batch that it is in, longest first."""
    seen: list[int] = []
    rows = token_rows()
    batches = []

    def sums(_batch: object, members: Sequence[Any]) -> Any:
        batches.append([len(row) for row in members])
        assert len(seen) == sum(len(batch) for batch in batches)
        return np.zeros(1)

    sum_over_rows(sums, torch.nn.Linear(1, 1), Watched(rows, seen), Collator(END), 2, Processes())
    lengths = [length for batch in batches for length in batch]
    assert lengths == sorted((len(row) for row in rows), reverse=True)
    assert sorted(seen) == list(range(len(rows)))
