"""A saved adapter that is not what was trained is refused, with numbers."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Method
from finetune_trainer.data.collate import Batch
from finetune_trainer.errors import RunError
from finetune_trainer.methods.adapter import WEIGHTS
from finetune_trainer.methods.start import Start, start_of
from finetune_trainer.training.model import load_base
from finetune_trainer.verify import Probe, check_reload, check_weights, logits

CPU = torch.device("cpu")
IDS = torch.arange(3, 23).reshape(1, 20)
BATCH: Batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": IDS}


def base(folder: Path) -> Any:
    """A fresh NF4 base."""
    return load_base(folder, Method(), torch.float32, CPU)


def fresh(model: Any, seed: int) -> Any:
    """An adapter before training."""
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))


def adapter(tuned: Any) -> Any:
    """An adapter with random B, as if trained."""
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return tuned


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Probe, Start]:
    """A good saved adapter, what its model computed, and what it was before training."""
    folder = tmp_path_factory.mktemp("adapter")
    before = logits(base(model), BATCH, CPU, torch.float32)
    tuned = fresh(base(model), seed=1)
    start = start_of(tuned, Method())
    adapter(tuned).save_pretrained(folder)
    return folder, Probe(BATCH, logits(tuned, BATCH, CPU, torch.float32), before), start


@pytest.fixture
def saved(trained: tuple[Path, Probe, Start], tmp_path: Path) -> Path:
    """A copy of the good adapter, to be spoilt."""
    return Path(shutil.copytree(trained[0], tmp_path / "adapter"))


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrite the adapter's weights."""
    weights = load_file(folder / WEIGHTS)
    edit(weights)
    save_file(weights, folder / WEIGHTS)


def verify(model: Path, folder: Path, trained: tuple[Path, Probe, Start]) -> str:
    """Both checks, as a run does them."""
    check_weights(folder, trained[2])
    return check_reload(base(model), folder, trained[1], CPU)


def test_accepts_what_was_saved(model: Path, saved: Path, trained: tuple[Path, Probe, Start]) -> None:
    """The good copy passes, and the probe's logits are those of plain peft with and without the adapter."""
    assert "computes what was trained" in verify(model, saved, trained)
    plain = PeftModel.from_pretrained(base(model), saved).eval()
    with torch.inference_mode():
        assert torch.equal(plain(**BATCH).logits[:, :-1], trained[1].trained)
        assert torch.equal(base(model).eval()(**BATCH).logits[:, :-1], trained[1].base)


def first_b(weights: dict[str, torch.Tensor]) -> str:
    """Name of one B matrix."""
    return next(name for name in weights if "lora_B" in name)


SPOILT: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "one B is zero": (lambda w: w[first_b(w)].zero_(), "1 tensors are all zero"),
    "one NaN": (lambda w: w[first_b(w)][0].fill_(float("nan")), "1 of 28 tensors are not finite"),
    "one infinity": (lambda w: w[first_b(w)][0].fill_(float("inf")), "not finite"),
    "scaled": (
        lambda w: w.update({n: t * 1.1 for n, t in w.items()}),
        "does not compute what was trained",
    ),
    "empty": (lambda w: w.clear(), "lacks 28 of 28 tensors"),
    "one missing": (lambda w: w.pop(first_b(w)), "lacks 1 of 28 tensors"),
    "one too many": (lambda w: w.update(extra=torch.ones(2)), "has 1 tensors that the method has not"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_refuses_spoilt_weights(name: str, model: Path, saved: Path, trained: tuple[Path, Probe, Start]) -> None:
    """Zero, NaN, infinity, changed or missing numbers."""
    edit, words = SPOILT[name]
    change(saved, edit)
    with pytest.raises(RunError, match=words) as caught:
        verify(model, saved, trained)
    assert caught.value.reason is Reason.VERIFICATION_FAILED


@pytest.mark.parametrize("missing", [WEIGHTS, "adapter_config.json"])
def test_refuses_a_missing_file(missing: str, model: Path, saved: Path, trained: tuple[Path, Probe, Start]) -> None:
    """Half an adapter is none."""
    (saved / missing).unlink()
    with pytest.raises(RunError, match="cannot") as caught:
        verify(model, saved, trained)
    assert caught.value.reason is Reason.VERIFICATION_FAILED


def test_refuses_what_was_not_trained(saved: Path, trained: tuple[Path, Probe, Start]) -> None:
    """A method may start from anything, not only from zero; here one B starts as it was saved."""
    weights = load_file(saved / WEIGHTS)
    name = first_b(weights)
    start = {**trained[2].digests, name: hashlib.sha256(weights[name].numpy().tobytes()).hexdigest()}
    with pytest.raises(RunError, match="1 tensors are as they were before training"):
        check_weights(saved, Start(start, trained[2].must_move))


def test_refuses_the_adapter_of_another_run(model: Path, saved: Path, trained: tuple[Path, Probe, Start]) -> None:
    """A perfectly good adapter with the same shapes, but not this one."""
    adapter(fresh(base(model), seed=2)).save_pretrained(saved)
    with pytest.raises(RunError, match="does not compute what was trained") as caught:
        verify(model, saved, trained)
    assert caught.value.reason is Reason.VERIFICATION_FAILED
