"""Losses and gradients of every method are exact: pads, evaluation, batches and virtual tokens do not change them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bitsandbytes.nn import modules as bnb_modules
from peft import PeftModel
from safetensors.torch import load_file

from finetune_api.v1alpha1 import Method
from finetune_trainer.data.collate import Collator
from finetune_trainer.data.tokens import IGNORED, TokenRow
from finetune_trainer.errors import RunError
from finetune_trainer.methods.adalora import orthogonality_penalty
from finetune_trainer.methods.adapter import add_adapter
from finetune_trainer.tasks.causal_lm import CausalLM
from finetune_trainer.tasks.measure import measure
from finetune_trainer.training.loss import nll_sum
from finetune_trainer.training.model import load_base
from finetune_trainer.training.processes import Processes
from tests.trainer.methodcases import plain_base
from tests.trainer.tinyrun import execute, run_file

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
VIRTUAL = 7
Rows = list[TokenRow]


def token_rows() -> Rows:
    """Rows of different length and share of trained tokens."""
    random = np.random.default_rng(4)
    rows = []
    for length, trained in ((6, 1), (31, 5), (14, 13)):
        ids = random.integers(3, 250, length).astype(np.int32)
        labels = np.full(length, IGNORED, dtype=np.int32)
        labels[-trained:] = ids[-trained:]
        rows.append(TokenRow(ids, labels))
    return rows


def tuned(model: Path, block: dict[str, Any], moved: bool = True) -> Any:
    """A model with the adapter of a method's block, as after some training."""
    method = Method.model_validate({"dropout": "0", **block} if block.get("type", "QLoRA") in _WITH_DROPOUT else block)
    adapted = add_adapter(load_base(model, method, torch.float32, CPU), method, 1)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad and moved:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return adapted


_WITH_DROPOUT = ("QLoRA", "LoRA", "AdaLoRA")


def by_hand(plain: Any, skipped: int) -> float:
    """Sum of NLL over all trained tokens, a row at a time, without padding and without asking for chosen positions."""
    total = 0.0
    for row in token_rows():
        ids = torch.from_numpy(row.input_ids).long()[None]
        with torch.inference_mode():
            # Through transformers' own default, which keeps a cache.
            logits = plain(input_ids=ids, use_cache=True).logits[0, skipped:].double().log_softmax(-1)
        total -= sum(float(logits[i - 1, row.labels[i]]) for i in range(1, len(row)) if row.labels[i] != IGNORED)
    return total


@pytest.mark.parametrize("kind", ["PrefixTuning", "PromptTuning", "PTuning"])
@pytest.mark.parametrize("sparse_head", [True, False])
def test_virtual_tokens_shift_nothing(kind: str, sparse_head: bool, model: Path, tmp_path: Path) -> None:
    """The loss of a padded batch is that of plain peft, row by row; with the adapter off, that of the base."""
    block = {"type": kind, "virtualTokens": VIRTUAL}
    adapted = tuned(model, block).eval()
    adapted.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(plain_base(model, block), tmp_path).eval()
    batch = Collator(0)(token_rows())
    with torch.inference_mode():
        on = float(nll_sum(adapted, batch, sparse_head=sparse_head))
        with adapted.disable_adapter():
            off = float(nll_sum(adapted, batch, sparse_head=sparse_head))
        again = float(nll_sum(adapted, batch, sparse_head=sparse_head))
    assert on == pytest.approx(by_hand(plain, 0 if kind == "PrefixTuning" else VIRTUAL), rel=1e-5)
    assert off == pytest.approx(by_hand(plain_base(model, block), 0), rel=1e-5)
    assert on == again
    assert abs(on - off) > 0.01


@pytest.mark.parametrize("kind", ["PrefixTuning", "PromptTuning", "PTuning"])
def test_packed_rows_get_no_virtual_tokens(kind: str, model: Path) -> None:
    """Peft would drop the position ids with a warning, and one row would see the other."""
    adapted, ids = tuned(model, {"type": kind}), torch.arange(3, 9)[None]
    with pytest.raises(RunError, match="packed into one sequence"):
        adapted(input_ids=ids, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]]))
    with adapted.disable_adapter():
        assert adapted(input_ids=ids, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2]])).logits.shape == (1, 6, 320)


SIXTEEN = [
    {"modulesToSave": ["lm_head"], "useDoRA": True},
    {"type": "IA3", "quantization": {"type": "NF4"}},
    {"type": "PromptTuning", "quantization": {"type": "INT8"}},
]


@pytest.mark.parametrize("block", SIXTEEN, ids=str)
def test_adapters_of_a_16_bit_base_are_float32(block: dict[str, Any], model: Path, tmp_path: Path) -> None:
    """The run computes in bfloat16, passes its own check on a fresh base, and publishes what small steps need."""
    plain = {"rank": 16, "dropout": "0.05"} if "type" in block else {}
    run = run_file(tmp_path, model, method={**plain, **block}, precision="BFloat16", learningRate="2e-2")
    outcome = execute(run, tmp_path / "work")
    assert (outcome.loss_after or 9) < (outcome.loss_before or 0) - 0.01
    weights = load_file(tmp_path / "out/adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in weights.values())


QUANTIZED = [
    {"quantization": {"type": "NF4"}},
    {"quantization": {"type": "FP4"}},
    {"quantization": {"type": "FP4", "doubleQuantization": False, "storage": "BFloat16"}},
    {"quantization": {"type": "INT8"}},
    {"quantization": {"type": "INT8"}, "useDoRA": True},
    {"type": "IA3", "quantization": {"type": "INT8"}},
]


@pytest.mark.parametrize("block", QUANTIZED, ids=str)
def test_an_evaluation_changes_nothing(block: dict[str, Any], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes as training does, to the bit, and leaves weights, scales and gradients as they were.

    On a CPU with AVX512-BF16 bitsandbytes would pack 4-bit weights anew; here every CPU is said to be one.
    """
    monkeypatch.setattr(bnb_modules, "has_avx512bf16", lambda: True)
    adapted, batch = tuned(model, block), Collator(0)(token_rows())

    def gradients() -> dict[str, torch.Tensor]:
        adapted.zero_grad()
        loss = nll_sum(adapted.train(), batch)
        loss.backward()
        found = {name: p.grad.clone() for name, p in adapted.named_parameters() if p.grad is not None}
        return {**found, "loss": loss.detach()}

    before, stored = gradients(), _stored(adapted)
    with torch.inference_mode():
        evaluated = nll_sum(adapted.eval(), batch)
    one, all_at_once = (
        measure(CausalLM(), adapted, token_rows(), Collator(0), size, Processes()).loss for size in (1, 3)
    )
    after = gradients()
    assert evaluated == before["loss"]
    assert one == pytest.approx(all_at_once, rel=1e-6)
    assert len(before) > 5
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(torch.equal(tensor, _stored(adapted)[name]) for name, tensor in stored.items())


def _stored(adapted: Any) -> dict[str, torch.Tensor]:
    """Bytes and scales of the quantized weights."""
    found = {}
    for name, module in adapted.named_modules():
        if isinstance(module, bnb_modules.Linear4bit):
            found |= {
                name: module.weight.data.view(torch.uint8).clone(),
                f"{name} s": module.weight.quant_state.absmax.clone(),
            }
        elif isinstance(module, bnb_modules.Linear8bitLt):
            found |= {name: module.weight.data.clone(), f"{name} s": module.state.SCB.clone()}
    assert len(found) == 2 * 14
    return found


def test_adaloras_penalty_is_pefts(model: Path) -> None:
    """It is what peft adds to the loss that transformers computes; ours has to be added to our own."""
    adapted = tuned(model, {"type": "AdaLoRA", "rank": 4}).eval()
    batch = Collator(0)(token_rows())
    with torch.inference_mode():
        with_penalty = adapted(**batch).loss
        without = adapted.base_model.model(**batch).loss
    assert float(with_penalty - without) > 0.1
    assert orthogonality_penalty(adapted).item() == pytest.approx(float(with_penalty - without), rel=1e-4)


@pytest.mark.parametrize("block", [{"type": "AdaLoRA", "rank": 4}, {"type": "PTuning"}], ids=str)
def test_micro_batches_do_not_change_the_result(block: dict[str, Any], model: Path, tmp_path: Path) -> None:
    """The penalty counts once a step, and virtual tokens once a row: one micro-batch of four is four of one."""
    weights = []
    for size in (4, 1):
        folder = tmp_path / str(size)
        folder.mkdir()
        dropout = {"dropout": "0"} if block["type"] == "AdaLoRA" else {"dropout": "0.05", "rank": 16}
        run = run_file(folder, model, method={**dropout, **block}, maxSteps=3, microBatchSize=size)
        execute(run, folder / "work")
        weights.append(load_file(folder / "out/adapter_model.safetensors"))
    for name, tensor in weights[0].items():
        assert tensor.shape == weights[1][name].shape
        assert torch.allclose(tensor, weights[1][name], atol=2e-4), name


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"targetModules": ["w_proj"]}, "no linear module named w_proj"),
        ({"modulesToSave": ["head"]}, "no module with weights named head"),
        ({"modulesToSave": ["q_proj"], "targetModules": ["v_proj"]}, "q_proj is quantized"),
        ({"type": "LoRA", "modulesToSave": ["q_proj"], "targetModules": ["q_proj"]}, "in method.targetModules, too"),
    ],
)
def test_modules_are_judged_by_the_model(block: dict[str, Any], words: str, model: Path) -> None:
    """A name that cannot be meant is refused with those that can."""
    with pytest.raises(RunError, match=words) as caught:
        tuned(model, block)
    assert caught.value.hint
