"""The memory estimate counts what the real code keeps, and a run that cannot fit is refused with what would fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.base import quantity
from finetune_api.names import Stage
from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Initialization, Method
from finetune_trainer.errors import RunError
from finetune_trainer.estimate import estimate as estimating
from finetune_trainer.estimate.estimate import anatomy
from finetune_trainer.estimate.saved import saved_bytes
from finetune_trainer.estimate.skeleton import skeleton
from finetune_trainer.fast.switch import base_of, turn_on
from finetune_trainer.methods.adapter import add_adapter
from finetune_trainer.preparation.stage import execute as prepare_stage
from finetune_trainer.training.model import load_base
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir
from tests.trainer.methodcases import EXAMPLES, example
from tests.trainer.tinyrun import run_file

ROWS, LENGTH, POSITIONS = 3, 64, 20


def really_kept(model: Any, *, fast: bool, packed: bool) -> int:
    """Bytes that torch keeps for the backward pass of a real forward, up to the input of the head."""
    model.train()
    if fast:
        turn_on(model, torch.arange(3, 12)[None])
    model.train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    base_of(model).lm_head = torch.nn.Identity()
    ids = torch.full((ROWS, LENGTH), 7)
    places: dict[str, Any] = {"attention_mask": torch.ones_like(ids)}
    if packed:
        places = {"position_ids": torch.arange(LENGTH)[None].expand(ROWS, -1).contiguous()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, **places, logits_to_keep=torch.arange(POSITIONS), use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(
    ("method", "fast", "packed"),
    [
        ({"type": "LoRA", "rank": 4}, True, False),
        ({"type": "LoRA", "rank": 4}, True, True),
        ({"type": "LoRA", "rank": 4}, False, False),
        ({"type": "IA3"}, False, False),
    ],
)
def test_shapes_tell_what_numbers_keep(model: Path, method: dict[str, Any], fast: bool, packed: bool) -> None:
    """Three rows keep three times what one forward pass on shapes alone counts, within a few small shared tensors."""
    chosen = Method.model_validate(method)
    told = saved_bytes(skeleton(model, chosen, torch.float32), LENGTH, POSITIONS, dtype=torch.float32, fast=fast)
    real = add_adapter(load_base(model, chosen, torch.float32, torch.device("cpu")), chosen, 1)
    assert ROWS * told == pytest.approx(really_kept(real, fast=fast, packed=packed), rel=0.03)


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.yaml")))
def test_every_method_can_be_told(name: str, model: Path, tmp_path: Path) -> None:
    """The estimate knows as many trained numbers as the real model has, for each method of examples/methods."""
    method = Method.model_validate(example(name))
    run = run_file(tmp_path, model).model_copy(update={"method": method})
    told = anatomy(run, model, 32, 8, torch.float32, "cpu")
    base = load_base(model, method.model_copy(update={"quantization": None}), torch.float32, torch.device("cpu"))
    tuned = add_adapter(base, method.model_copy(update={"initialization": Initialization.DEFAULT}), 1)
    assert told.parameters == sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    assert told.kept > 0


def test_weights_as_they_are_stored(model: Path, tmp_path: Path) -> None:
    """Bytes of a loaded NF4 base, its scales too, and four bytes for each number of the adapter."""
    run = run_file(tmp_path, model)
    told = anatomy(run, model, 32, 8, torch.float32, "cpu").peak(1, checkpointing=False)
    base = load_base(model, run.method, torch.float32, torch.device("cpu"))
    scales = [
        m.weight.quant_state
        for m in base.modules()
        if hasattr(m.weight if hasattr(m, "weight") else None, "quant_state")
    ]
    stored = sum(p.numel() * p.element_size() for p in base.parameters())
    stored += sum(s.absmax.numel() + 4 * s.state2.absmax.numel() for s in scales)
    assert scales
    assert told.weights == pytest.approx(stored, rel=0.01)
    tuned = add_adapter(base, run.method, 1)
    assert told.adapter == sum(4 * p.numel() for p in tuned.parameters() if p.requires_grad)


def prepare(run: RunFile, work: Path, **resources: Any) -> Any:
    """The prepare stage of a run for one GPU."""
    staged = run.model_copy(update={"stage": Stage.PREPARE, "gpus": 1, **resources})
    return prepare_stage(RunFile.from_json(staged.to_json()), WorkDir(work), StopSwitch())


def test_what_cannot_fit_is_refused_before_a_gpu_is_held(model: Path, tmp_path: Path) -> None:
    """The message holds both numbers, the hint what would fit; with that, or with more memory, it is prepared."""
    run = run_file(tmp_path, model, batchSize=4096, microBatchSize=4096)
    needed = prepare(run, tmp_path / "a").estimated_memory_bytes
    enough = needed * 10 // 9 // 2**20 + 1  # a tenth is kept back
    assert prepare(run, tmp_path / "b", gpu_memory=f"{enough}Mi").estimated_memory_bytes == needed
    with pytest.raises(RunError, match="of which 90% may be used"):
        prepare(run, tmp_path / "less", gpu_memory=f"{enough - 2}Mi")
    with pytest.raises(RunError, match=r"needs about \d+\.\d GiB .* resources\.gpuMemory is 900Mi") as caught:
        prepare(run, tmp_path / "c", gpu_memory="900Mi")
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    size = int(caught.value.hint.partition("training.microBatchSize: ")[2].partition(" ")[0])
    assert 1 <= size < 4096
    smaller = run.training.model_copy(update={"micro_batch_size": size})
    fits = prepare(run.model_copy(update={"training": smaller}), tmp_path / "d", gpu_memory="900Mi")
    assert fits.estimated_memory_bytes <= 0.9 * quantity("900Mi")
    assert json.loads(fits.to_termination_message())["estimatedMemoryBytes"] == fits.estimated_memory_bytes


@pytest.mark.long
def test_the_largest_micro_batch_that_fits_is_taken(model: Path, tmp_path: Path) -> None:
    """Of all that divide a process's share of the batch, the largest whose own estimate is within nine tenths."""

    def told(size: int) -> int:
        run = run_file(tmp_path, model, batchSize=3600, microBatchSize=size)
        return int(prepare(run, tmp_path / f"w{size}").estimated_memory_bytes)

    fits, larger = told(450), told(600)  # neighbours among the divisors of 1800
    limit = (fits + larger) // 2 * 10 // 9
    run = run_file(tmp_path, model, batchSize=3600, microBatchSize=1, autoMicroBatchSize=True)
    outcome = prepare(run, tmp_path / "auto", gpu_memory=f"{limit >> 10}Ki", gpus=2)
    assert (outcome.micro_batch_size, outcome.estimated_memory_bytes) == (450, fits)
    assert prepare(run, tmp_path / "nodes", gpu_memory=f"{limit >> 10}Ki", training_nodes=16).micro_batch_size == 225
    with pytest.raises(RunError, match=r"resources\.gpuMemory is 100Mi"):
        prepare(run, tmp_path / "small", gpu_memory="100Mi")
    assert prepare(run_file(tmp_path, model), tmp_path / "told", gpu_memory="9Gi").micro_batch_size is None


def test_what_cannot_be_told_is_trained_all_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A model whose code asks for numbers has no estimate; its rows are prepared, and the log says why."""

    def asks(*_: Any, **__: Any) -> int:
        raise NotImplementedError("shapes have no numbers")

    monkeypatch.setattr(estimating, "saved_bytes", asks)
    with caplog.at_level("INFO"):
        outcome = prepare(run_file(tmp_path, model), tmp_path / "work", gpu_memory="1Gi")
    assert (outcome.reason, outcome.estimated_memory_bytes) == (Reason.PREPARED, None)
    assert "cannot be told: NotImplementedError: shapes have no numbers" in caplog.text


@pytest.mark.parametrize(("text", "number"), [("24Gi", 24 * 2**30), ("1500m", 1.5), ("2", 2), ("1.5G", 1.5e9)])
def test_quantities(text: str, number: float) -> None:
    """As Kubernetes reads them."""
    assert quantity(text) == number
