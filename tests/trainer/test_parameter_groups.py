"""Groups of parameters: each has the rate and the decay that the job says, and none has what is not for it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from finetune_api.names import Stage
from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError
from finetune_trainer.preparation.stage import execute as prepare_stage
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir
from tests.tiny import save_tiny_model
from tests.trainer.callbacks import Steps, add_to_trainers
from tests.trainer.tinyrun import execute, run_file

pytestmark = pytest.mark.long
PLAIN = {"rank": 16, "dropout": "0.05"}
RANDOM_A_AND_B = {"type": "LoRA", "initialization": "Orthogonal", "targetModules": ["q_proj", "v_proj", "up_proj"]}
"""With B zero, A would have no gradient in the first step."""
GROUPS = [
    {"modules": ["layers.0", "lm_head"], "learningRate": "1e-2"},
    {"modules": ["q_proj"], "learningRate": "2e-3", "weightDecay": "0.5"},
    {"modules": ["up_proj"], "weightDecay": "0"},
]
SAID = {
    ".layers.0.": (1e-2, 0.1),
    ".lm_head.": (1e-2, 0.1),
    ".layers.1.self_attn.q_proj.": (2e-3, 0.5),
    ".layers.1.mlp.up_proj.": (4e-3, 0.0),
    ".layers.1.self_attn.v_proj.": (4e-3, 0.1),
}
"""What the groups say by hand, where the run has a rate of 4e-3 and a decay of 0.1: (rate, decay) by part of a name."""


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """What the optimizer of the next run does."""
    watcher = Steps()
    add_to_trainers(monkeypatch, watcher)
    return watcher


def _run(folder: Path, model: Path, **training: Any) -> Any:
    settings = {"maxSteps": 1, "warmupSteps": 0, "learningRate": "4e-3", "weightDecay": "0.1", **training}
    return execute(run_file(folder, model, **settings), folder / "work")


def _adamw(weight: torch.Tensor, gradient: torch.Tensor, rate: float, decay: float) -> torch.Tensor:
    """The first step of AdamW (https://arxiv.org/abs/1711.05101, algorithm 2), whose corrected means are g and g^2."""
    weight, gradient = weight.double(), gradient.double()
    return weight - rate * (gradient / (gradient.square().sqrt() + 1e-8) + decay * weight)


@pytest.mark.parametrize("ratio", [1, 4])
def test_the_first_step_is_adamws(ratio: int, steps: Steps, model: Path, tmp_path: Path) -> None:
    """Every parameter moves as its group says; with LoRA+ each B, and no A, moves `ratio` times as far."""
    method = {**RANDOM_A_AND_B, "modulesToSave": ["lm_head"]} | ({"loraPlusRatio": str(ratio)} if ratio > 1 else {})
    _run(tmp_path, model, method=method, parameterGroups=GROUPS)
    before, gradients, after = steps.weights[0], steps.gradients[0], steps.weights[1]
    assert len(before) == 2 * 2 * 3 + 1
    for name, weight in before.items():
        ((rate, decay),) = [said for part, said in SAID.items() if part in name]
        expected = _adamw(weight, gradients[name], rate * (ratio if "lora_B" in name else 1), decay)
        assert torch.allclose(after[name].double(), expected, rtol=0, atol=1e-7), name
        assert not torch.equal(after[name], weight), name


@pytest.mark.parametrize("kind", ["AdamW8bit", "Lion", "Adafactor", "SGD"])
def test_other_optimizers_have_groups_too(kind: str, steps: Steps, model: Path, tmp_path: Path) -> None:
    """Each parameter has its rate and its decay, and moves."""
    groups = [{"modules": ["layers.0"], "learningRate": "8e-3", "weightDecay": "0"}]
    method = {**RANDOM_A_AND_B, "rank": 64}
    _run(tmp_path, model, method=method, parameterGroups=groups, optimizer={"type": kind})
    for name, weight in steps.weights[0].items():
        own = ".layers.0." in name
        assert (steps.rates[0][name], steps.decays[name]) == ((8e-3, 0.0) if own else (4e-3, 0.1)), name
        assert not torch.equal(weight, steps.weights[1][name]), name


def test_the_schedule_is_that_of_all(steps: Steps, model: Path, tmp_path: Path) -> None:
    """In every step of warm-up and decay, each group has the same share of its own peak; the run's is logged."""
    method = {**RANDOM_A_AND_B, "modulesToSave": ["lm_head"]}
    _run(tmp_path, model, method=method, parameterGroups=GROUPS, maxSteps=6, warmupSteps=2)
    shares = [0, 0.5, *((1 + torch.cos(torch.tensor(torch.pi * i / 4)).item()) / 2 for i in range(4))]
    for name in steps.weights[0]:
        ((peak, _),) = [said for part, said in SAID.items() if part in name]
        assert [rates[name] for rates in steps.rates] == pytest.approx([peak * share for share in shares], abs=1e-9)
    assert "peak learning rate 4e-3 (layers.0, lm_head 1e-2; q_proj 2e-3)," in (tmp_path / "out/README.md").read_text()
    logged = [json.loads(line) for line in (tmp_path / "work/metrics.jsonl").read_text().splitlines()]
    rates = [entry["learning_rate"] for entry in logged if "learning_rate" in entry]
    assert rates == pytest.approx([4e-3 * share for share in shares], abs=1e-9)


def test_matrices_decay_alone(steps: Steps, tmp_path: Path) -> None:
    """Of a whole model, what has two dimensions decays: no bias, no norm, whatever group they are in."""
    folder = save_tiny_model(tmp_path / "base")
    config = LlamaConfig.from_pretrained(folder, attention_bias=True, mlp_bias=True)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    groups = [{"modules": ["layers.0"], "weightDecay": "0.7"}]
    _run(tmp_path, folder, method={**PLAIN, "type": "Full"}, parameterGroups=groups)
    matrices = {name for name, weight in steps.weights[0].items() if weight.ndim == 2}
    vectors = steps.weights[0].keys() - matrices
    assert {n.rpartition(".")[2] for n in vectors} == {"weight", "bias"}
    assert {steps.decays[name] for name in vectors} == {0.0}
    assert {name: steps.decays[name] for name in matrices} == {n: 0.7 if ".layers.0." in n else 0.1 for n in matrices}


@pytest.mark.parametrize("method", [{}, {"loraPlusRatio": "4"}], ids=str)
def test_vectors_of_an_adapter_do_not_decay(method: dict[str, Any], steps: Steps, model: Path, tmp_path: Path) -> None:
    """DoRA's magnitudes (one number a row) and norms trained whole do not, nor do they with LoRA+; A and B do."""
    _run(tmp_path, model, method={"useDoRA": True, "modulesToSave": ["norm"], **method})
    decays = {
        kind: {d for n, d in steps.decays.items() if kind in n} for kind in ("lora_A", "lora_B", "vector", "norm")
    }
    assert decays == {"lora_A": {0.1}, "lora_B": {0.1}, "vector": {0.0}, "norm": {0.0}}


def test_lora_plus_is_pefts(steps: Steps, model: Path, tmp_path: Path) -> None:
    """Without groups, every parameter has the rate that peft's own optimizer for LoRA+ gives it."""
    _run(tmp_path, model, method={"type": "LoRA", "useDoRA": True, "loraPlusRatio": "8", "modulesToSave": ["norm"]})
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), tmp_path / "out", is_trainable=True
    )
    optimizer = create_loraplus_optimizer(plain, torch.optim.AdamW, lr=4e-3, loraplus_lr_ratio=8)
    names = {id(parameter): name for name, parameter in plain.named_parameters()}
    expected = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert steps.rates[0] == pytest.approx(expected)
    assert set(expected.values()) == {4e-3, 8 * 4e-3}


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([["q_projection"]], "nothing is trained in a module named q_projection"),
        ([["proj"]], "nothing is trained in a module named proj"),
        ([["embed_tokens"]], "nothing is trained in a module named embed_tokens"),
        ([["layers.0"], ["q_proj", "layers.0.mlp"]], r"earlier groups have all of layers\.0\.mlp"),
    ],
)
def test_a_module_that_learns_nothing_is_refused(
    groups: list[list[str]], words: str, model: Path, tmp_path: Path
) -> None:
    """By its name, with those that do learn; while rows are prepared, and in a run that nobody prepared."""
    listed = [{"modules": modules, "learningRate": "1e-3"} for modules in groups]
    run = run_file(tmp_path, model, parameterGroups=listed)
    for begin in (
        lambda: prepare_stage(run.model_copy(update={"stage": Stage.PREPARE}), WorkDir(tmp_path / "w1"), StopSwitch()),
        lambda: execute(run, tmp_path / "w2"),
    ):
        with pytest.raises(RunError, match=words) as caught:
            begin()
        assert caught.value.reason is Reason.INVALID_CONFIGURATION
        assert "down_proj, gate_proj" in caught.value.hint
