"""Packed rows are trained as if each were alone: same loss per token, same gradients, same evaluation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Method
from finetune_trainer.data.collate import Collator, PackCollator
from finetune_trainer.data.packing import Pack, Packs
from finetune_trainer.data.tokens import IGNORED, TokenRow
from finetune_trainer.errors import RunError
from finetune_trainer.methods.adapter import add_adapter
from finetune_trainer.tasks.causal_lm import CausalLM
from finetune_trainer.tasks.measure import measure
from finetune_trainer.training.isolation import check_isolation
from finetune_trainer.training.loss import nll_sum, trained_logits
from finetune_trainer.training.model import load_base
from finetune_trainer.training.paths import choose_paths
from finetune_trainer.training.processes import Processes
from tests.trainer.tinyrun import execute, run_file, session

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tuned(model: Path) -> Any:
    """A base with an adapter that has left zero."""
    base = load_base(model, Method.model_validate({"type": "LoRA"}), torch.float32, CPU)
    tuned = add_adapter(base, Method.model_validate({"type": "LoRA", "rank": 4, "dropout": "0"}), 1)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.1)
    return tuned


def token_rows() -> list[TokenRow]:
    """Rows of many lengths, one token to more than a block of attention; the first token claims to be trained."""
    random = np.random.default_rng(3)
    rows = []
    for length in (40, 5, 17, 1, 150, 9, 2, 30):
        ids = random.integers(3, 250, length).astype(np.int32)
        labels = ids.copy()
        labels[: length // 3] = IGNORED
        labels[0] = ids[0]
        rows.append(TokenRow(ids, labels))
    return rows


def alone(model: Any, row: TokenRow) -> list[float]:
    """NLL of each trained token of a row by the model's whole softmax; the first token is nobody's to predict."""
    with torch.inference_mode():
        probabilities = model(torch.from_numpy(row.input_ids).long()[None]).logits[0].double().log_softmax(-1)
    trained = [i for i in range(1, len(row)) if row.labels[i] != IGNORED]
    return [-float(probabilities[i - 1, row.labels[i]]) for i in trained]


def test_every_token_has_the_loss_it_has_alone(tuned: Any) -> None:
    """Token by token, in the order of the pack; the first token of a row is never a target, whatever its label says."""
    rows = tuple(token_rows())
    expected = [loss for row in rows for loss in alone(tuned, row)]
    for row in rows:  # as maps of a file are
        row.input_ids.setflags(write=False)
        row.labels.setflags(write=False)
    with torch.inference_mode():
        logits, targets = trained_logits(tuned.eval(), PackCollator()([Pack(rows[:3]), Pack(rows[3:])]))
    packed = torch.nn.functional.cross_entropy(logits[0].double(), targets[0], reduction="none")
    assert packed.tolist() == pytest.approx(expected, abs=2e-5)


def test_gradients_are_those_of_the_rows(tuned: Any) -> None:
    """One step on packs moves the adapter as one step on padded rows would; several packs a batch change nothing."""
    rows = [row for row in token_rows() if len(row) > 1]
    for row in rows:
        row.labels[0] = IGNORED

    def gradients(batches: Iterator[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        tuned.zero_grad()
        for batch in batches:
            nll_sum(tuned.train(), batch).backward()
        return {n: p.grad.clone() for n, p in tuned.named_parameters() if p.grad is not None}

    expected = gradients(Collator(0)([row]) for row in rows)
    packs = Packs(rows, [len(row) for row in rows], 160, 0)
    for size in (1, 2):
        found = gradients(PackCollator()(packs[start : start + size]) for start in range(0, len(packs), size))
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.allclose(found[name], tensor, rtol=1e-3, atol=1e-4 * float(tensor.abs().max())), name


@pytest.mark.parametrize("batch_size", [1, 3])
def test_evaluation_of_packs_is_the_mean_over_tokens(tuned: Any, batch_size: int) -> None:
    """The number that unpacked rows give, one by one."""
    rows = token_rows()
    losses = [loss for row in rows for loss in alone(tuned, row)]
    packed = measure(
        CausalLM(), tuned, Packs(rows, [len(row) for row in rows], 200, 0), PackCollator(), batch_size, Processes()
    ).loss
    assert packed == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_a_model_that_ignores_positions_is_refused(tuned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check says by how much rows see each other; the honest model passes it, with one row as with many."""
    rows = token_rows()[:3]
    assert "do not see each other" in check_isolation(tuned, rows, CPU)
    assert "do not see each other" in check_isolation(tuned, rows[:1], CPU)

    base = tuned.get_base_model()
    honest = base.forward

    def ignores_positions(input_ids: torch.Tensor, position_ids: object = None, **more: Any) -> Any:
        del position_ids
        return honest(input_ids, **more)

    monkeypatch.setattr(base, "forward", ignores_positions)
    with pytest.raises(RunError, match=r"logits of two rows differ by 0\.\d+ \(relative\)") as caught:
        check_isolation(tuned, rows, CPU)
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert "packing" in caught.value.hint


def test_layers_that_hide_positions_get_their_own_attention(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Documents cannot be told apart in the layers then, and the model's own mask does it: packing goes on, exact."""
    base = load_base(model, Method.model_validate({"type": "LoRA"}), torch.float32, CPU)
    for layer in base.model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, "position_ids": None}), with_kwargs=True
        )
    current = session(run_file(tmp_path, model, packing=True), tmp_path / "work")
    with caplog.at_level("INFO"):
        paths = choose_paths(current, base, token_rows())
    assert not paths.attention
    assert "its own attention is used" in caplog.text
    assert "do not see each other" in caplog.text


def test_a_packed_run_publishes_and_counts_packs(model: Path, tmp_path: Path) -> None:
    """20 rows make fewer sequences, and steps of an epoch; the held-out loss before is that of an unpacked run."""
    outcomes = {}
    for name, more in (("packed", {"packing": True, "maxLength": 256}), ("rows", {"maxLength": 256})):
        place = tmp_path / name
        place.mkdir()
        run = run_file(place, model, batchSize=2, **more)
        one_epoch = run.training.model_copy(update={"max_steps": None})
        outcomes[name] = execute(run.model_copy(update={"training": one_epoch}), place / "work")
    packed, plain = outcomes["packed"], outcomes["rows"]
    assert plain.step == 10
    assert packed.dataset is not None
    assert 0 < packed.step < 10
    assert packed.step >= -(-packed.dataset.tokens // 256) // 2
    assert packed.loss_before == pytest.approx(plain.loss_before, abs=1e-5)
    assert packed.loss_after is not None
    assert packed.loss_before is not None
    assert packed.loss_after < packed.loss_before
