"""Optimizers, schedules and the other arguments of the Trainer do what the spec says, and undo nothing."""

import inspect
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.optim import GlobalOptimManager
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError
from finetune_trainer.training import arguments as argument_module
from finetune_trainer.training import fit as fitting
from finetune_trainer.training.arguments import training_arguments
from finetune_trainer.training.extra import TAKEN, extra_arguments
from tests.trainer.tinyrun import execute, run_file

pytestmark = pytest.mark.long


class _Watch(TrainerCallback):
    """Notes the learning rate of every step, by parameter group, and keeps the optimizer."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.optimizer: Any = None
        self.model: Any = None

    def on_pre_optimizer_step(self, *_: object, optimizer: Any, model: Any, **__: object) -> None:
        self.optimizer, self.model = optimizer, model
        self.rates.append([group["lr"] for group in optimizer.param_groups])


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> _Watch:
    """A watcher in the Trainer of the next run."""
    watcher, real = _Watch(), fitting._trainer

    def trainer(*arguments: Any) -> Any:
        made = real(*arguments)
        made.add_callback(watcher)
        return made

    monkeypatch.setattr(fitting, "_trainer", trainer)
    return watcher


def _run(folder: Path, model: Path, **training: Any) -> Any:
    return execute(run_file(folder, model, **{"maxSteps": 10, "learningRate": "4e-3", **training}), folder / "work")


PEAK = 4e-3
SCHEDULES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "constant after two steps": ({"scheduler": "Constant", "warmupSteps": 2}, [0, 0.5] + [1] * 8),
    "linear": ({"scheduler": "Linear", "warmupRatio": "0.2"}, [0, 0.5] + [1 - i / 8 for i in range(8)]),
    "cosine": ({"warmupSteps": 0}, [(1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)]),
    "cosine with a floor": (
        {"scheduler": "CosineWithMinLR", "warmupSteps": 0, "schedulerOptions": {"minLearningRateRatio": "0.2"}},
        [0.2 + 0.8 * (1 + math.cos(math.pi * i / 10)) / 2 for i in range(10)],
    ),
    "square": (
        {"scheduler": "Polynomial", "warmupSteps": 0, "schedulerOptions": {"power": "2"}},
        [(1 - i / 10) ** 2 for i in range(10)],
    ),
    "inverse square root": (
        {"scheduler": "InverseSqrt", "warmupSteps": 2},
        [0, 0.5] + [math.sqrt(2 / i) for i in range(2, 10)],
    ),
    "warm up, stay, decay": (
        {
            "scheduler": "WarmupStableDecay",
            "warmupSteps": 2,
            "schedulerOptions": {"decayRatio": "0.4", "minLearningRateRatio": "0.1"},
        },
        [0.1, 0.55] + [1] * 4 + [0.1 + 0.9 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)],
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_learning_rate_follows_its_formula(name: str, model: Path, tmp_path: Path) -> None:
    """Ten steps of each schedule, as its formula gives them."""
    settings, shares = SCHEDULES[name]
    run = run_file(tmp_path, model, learningRate=str(PEAK), **settings)
    layer = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=PEAK)
    trainer = Trainer(model=layer, args=training_arguments(run, tmp_path / "work", torch.float32))
    schedule = trainer.create_scheduler(10, optimizer)
    rates = []
    for _ in shares:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([PEAK * share for share in shares], abs=1e-9)


OPTIMIZERS = {
    "AdamW": "torch.optim.adamw.AdamW",
    "AdamWFused": "torch.optim.adamw.AdamW",
    "AdamW8bit": "bitsandbytes.optim.adamw.AdamW",
    "Lion": "bitsandbytes.optim.lion.Lion",
    "Adafactor": "transformers.optimization.Adafactor",
    "SGD": "torch.optim.sgd.SGD",
}
RATES = {"SGD": "0.5", "Lion": "1e-3"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.soak if n in ("AdamW", "AdamWFused", "Lion") else ()) for n in OPTIMIZERS],
)
def test_every_optimizer_learns(name: str, watch: _Watch, model: Path, tmp_path: Path) -> None:
    """It is the one that was asked for, with its numbers, and the held-out loss falls."""
    betas = {"beta1": "0.8", "beta2": "0.95"} if name not in ("Adafactor", "SGD") else {}
    more = {"epsilon": "1e-6"} if name.startswith("AdamW") else {}
    outcome = _run(
        tmp_path,
        model,
        learningRate=RATES.get(name, "5e-3"),
        optimizer={"type": name, **betas, **more},
        maxSteps=6,
        weightDecay="0.1",
    )
    inner = getattr(watch.optimizer, "optimizer", watch.optimizer)
    assert f"{type(inner).__module__}.{type(inner).__name__}" == OPTIMIZERS[name]
    if betas:
        assert tuple(inner.param_groups[0]["betas"]) == (0.8, 0.95)
    if more:
        assert inner.param_groups[0]["eps"] == 1e-6
    assert outcome.loss_after < outcome.loss_before - 0.05
    assert bool(inner.defaults.get("fused")) is (name == "AdamWFused")


def test_an_8_bit_optimizer_keeps_8_bits(watch: _Watch, model: Path, tmp_path: Path) -> None:
    """The state of tensors with 4096 numbers or more is kept in bytes, as bitsandbytes does."""
    # It keeps, for good and by id, which tensors shall have 32 bits: ids of models that other tests have let go.
    GlobalOptimManager.get_instance().initialize()
    _run(tmp_path, model, method={"rank": 64}, optimizer={"type": "AdamW8bit"}, maxSteps=2)
    kinds = {state["state1"].dtype for p, state in watch.optimizer.optimizer.state.items() if p.numel() >= 4096}
    assert kinds == {torch.uint8}


def test_vectors_do_not_decay(watch: _Watch, model: Path, tmp_path: Path) -> None:
    """Matrices of the adapter decay, DoRA's magnitudes (one number a row) and norms trained whole do not."""
    _run(tmp_path, model, method={"useDoRA": True, "modulesToSave": ["norm"]}, weightDecay="0.1", maxSteps=2)
    names = {id(parameter): name for name, parameter in watch.model.named_parameters()}
    decays = {
        names[id(parameter)]: group["weight_decay"]
        for group in watch.optimizer.param_groups
        for parameter in group["params"]
    }
    assert {decay for name, decay in decays.items() if "lora_A" in name or "lora_B" in name} == {0.1}
    assert {decay for name, decay in decays.items() if ".norm." in name} == {0.0}


def test_lora_plus_moves_b_faster(watch: _Watch, model: Path, tmp_path: Path) -> None:
    """Every B has ratio times the learning rate of every A, in every step."""
    _run(tmp_path, model, method={"loraPlusRatio": "8"}, maxSteps=4, weightDecay="0.1")
    names = {id(parameter): name for name, parameter in watch.model.named_parameters()}
    kinds = [
        {"B" if "lora_B" in names[id(p)] else "A" for p in group["params"]} for group in watch.optimizer.param_groups
    ]
    assert {"A"} in kinds
    assert {"B"} in kinds
    for rates in watch.rates[1:]:
        a, b = (rates[kinds.index({kind})] for kind in "AB")
        assert b == pytest.approx(8 * a)
        assert a > 0


def test_noise_on_embeddings_is_for_training_only(model: Path, tmp_path: Path) -> None:
    """NEFTune changes what is learned; afterwards the model is evaluated and published without it."""
    weights = []
    for name, more in (("plain", {}), ("noise", {"neftuneNoiseAlpha": "5"})):
        folder = tmp_path / name
        folder.mkdir()
        _run(folder, model, maxSteps=3, **more)  # its own check on a fresh base would see noise
        weights.append(load_file(folder / "out/adapter_model.safetensors"))
    assert not all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def _arguments(folder: Path, model: Path, **extra: str) -> Any:
    return training_arguments(run_file(folder, model, extraArguments=extra), folder / "work", torch.float32)


def test_extra_arguments_reach_the_trainer(model: Path, tmp_path: Path) -> None:
    """Text becomes what the field holds: a whole number, a fraction, a yes, a word."""
    made = _arguments(
        tmp_path,
        model,
        torch_empty_cache_steps="7",
        eval_delay="0.5",
        logging_first_step="true",
        dataloader_num_workers="1",
        dataloader_multiprocessing_context="spawn",
        ddp_bucket_cap_mb="30",
    )
    assert made.torch_empty_cache_steps == 7
    assert made.eval_delay == 0.5
    assert made.logging_first_step is True
    assert (made.dataloader_num_workers, made.dataloader_multiprocessing_context) == (1, "spawn")
    assert made.ddp_bucket_cap_mb == 30


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("output_dir", "elsewhere", "output.uri"),
        ("learning_rate", "1", "training.learningRate"),
        ("save_steps", "1", "training.checkpoints.everySteps"),
        ("report_to", "wandb", "training.trackers says it"),
        ("optim", "galore_adamw", "training.optimizer.type says it"),
        ("optim_target_modules", "all-linear", "GaLore and APOLLO use it, which are not offered"),
        ("push_to_hub", "true", "the trainer sets it itself"),
        ("resume_from_checkpoint", "x", "the trainer sets it itself"),
        ("logging_nan_inf_filter", "true", "the trainer sets it itself"),
        ("deepspeed", "{}", "the trainer sets it itself"),
        ("warmup_ratio", "0.1", "no such field"),
        ("evaluation_strategy", "no", "no such field"),
        ("torch_empty_cache_steps", "often", "'often' is no int"),
        ("full_determinism", "maybe", "'maybe' is no bool"),
        ("optim_args", "weightdecay=3", "read nothing from it"),
        ("dataloader_prefetch_factor", "2", "no process loads data beside it"),
        ("dataloader_persistent_workers", "true", "no process loads data beside it"),
        ("dataloader_multiprocessing_context", "spawn", "no process loads data beside it"),
    ],
)
def test_refused_by_name_before_anything_is_read(
    name: str, value: str, words: str, model: Path, tmp_path: Path
) -> None:
    """The run ends with the name, the rule and what to do; the model is not even there."""
    run = run_file(tmp_path, model / "missing", extraArguments={name: value})
    with pytest.raises(RunError, match=words) as caught:
        execute(run, tmp_path / "work")
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert name in caught.value.message
    assert caught.value.hint


def test_what_the_spec_sets_cannot_be_set_again() -> None:
    """No name that the trainer passes itself is taken, but the one that only says how pages are pinned."""
    source = inspect.getsource(argument_module)
    passed = {field.name for field in fields(TrainingArguments) if f'"{field.name}":' in source}
    assert len(passed) > 30
    assert passed & TAKEN == {"dataloader_pin_memory"}
    for name in {field.name for field in fields(TrainingArguments)} - TAKEN:
        with pytest.raises(RunError, match=name):
            extra_arguments({name: "1"})


@pytest.mark.parametrize(
    ("method", "precision", "words"),
    [
        ({"type": "LoRA", "initialization": "PiSSA"}, "BFloat16", "PiSSA starts as the base only in float32"),
        ({}, "Float16", "Float16 needs a GPU"),
    ],
)
def test_precision_is_judged_first(
    method: dict[str, Any], precision: str, words: str, model: Path, tmp_path: Path
) -> None:
    """A run file may come from where nobody knew the hardware."""
    run = run_file(tmp_path, model / "missing", method=method, precision=precision)
    with pytest.raises(RunError, match=words) as caught:
        execute(run, tmp_path / "work")
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
