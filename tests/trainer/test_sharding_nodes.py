"""Shares over several nodes, which have no disk in common: trained, saved and checked as on one."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from tests.tiny import tiny_tokenizer
from tests.trainer.nodes import nodes
from tests.trainer.ranks import STEPS, Ranks, logged, outcome, shared_run
from tests.trainer.tinyrun import execute, run_file

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

CASES: dict[str, dict[str, Any]] = {"ZeRO2": {}, "ZeRO3": {}, "FSDP": {"type": "LoRA"}}
"""By strategy, the method: NF4 where it can be shared out."""
LOSS, WEIGHT = 2e-6, 1e-4
"""As in test_sharding_exact.py."""


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """The workers' common ancestor."""
    started = Ranks()
    yield started
    started.close()


@pytest.fixture(scope="module")
def alone(ranks: Ranks, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the run of one process that has a base of the same numbers."""

    @cache
    def go(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("alone")
        assert ranks.run(shared_run(folder, model, "DDP", 1, {"type": kind}), folder / "work") == [0]
        return folder

    return lambda strategy: go(CASES[strategy].get("type", "QLoRA"))


def _close(one: Path, other: Path) -> None:
    found, expected = (load_file(folder / "out/adapter_model.safetensors") for folder in (one, other))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.any(), name
        assert float((tensor - found[name]).abs().max()) < WEIGHT, name


@pytest.mark.parametrize(
    ("strategy", "processes"),
    [
        ("ZeRO3", 2),
        ("FSDP", 2),
        pytest.param("ZeRO2", 2, marks=pytest.mark.soak),
        pytest.param("ZeRO3", 4, marks=pytest.mark.soak),
        pytest.param("FSDP", 4, marks=pytest.mark.soak),
    ],
)
def test_nodes_train_what_one_process_trains(
    strategy: str, processes: int, ranks: Ranks, alone: Callable[[str], Path], model: Path, tmp_path: Path
) -> None:
    """Stopped by the second node's SIGTERM after three steps and resumed on two nodes: the losses of one process.

    So is the adapter. Everything of the model that can be shared out is. All of the checkpoint is on the first node,
    with the random state of every process; the second node keeps none of it.
    """
    run = shared_run(tmp_path, model, strategy, processes, CASES[strategy], nodes=2)
    last = processes - 1
    assert ranks.run(run, tmp_path / "first", stop={last: 3}) == [75] * processes, _said(tmp_path / "first")
    stored = {file.name for file in (tmp_path / "out/.finetune/u1/checkpoints/step-00000003").iterdir()}
    assert stored >= {f"rng_state_{rank}.pth" for rank in range(processes)} | {"optimizer.pt", "scheduler.pt"}
    assert not list((tmp_path / "first-1/checkpoints").glob("*"))
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "first-1")
    assert ranks.run(run, tmp_path / "second") == [0] * processes, _said(tmp_path / "second")
    assert f"training from step 3 of {STEPS}" in _said(tmp_path / "second")
    assert f"shared out by {strategy} among {processes} processes" in _said(tmp_path / "second")
    one = alone(strategy)
    for name in ("loss", "eval_loss"):
        assert logged(tmp_path / "second", name) == pytest.approx(logged(one / "work", name), rel=LOSS)
    _close(tmp_path, one)
    assert outcome(tmp_path / "second").loss_after == pytest.approx(outcome(one / "work").loss_after, rel=LOSS)


def _said(work: Path) -> str:
    return Path(f"{work}.0.output").read_text()


@pytest.mark.soak
def test_one_node_goes_on_with_what_two_have_saved(
    ranks: Ranks, alone: Callable[[str], Path], model: Path, tmp_path: Path
) -> None:
    """FSDP on two nodes; then two processes of one node; then ZeRO-3 on two nodes: what one process trains."""
    for part, (strategy, count, stop) in enumerate((("FSDP", 2, {0: 2}), ("FSDP", 1, {1: 4}), ("ZeRO3", 2, {}))):
        run = shared_run(tmp_path, model, strategy, 2, CASES["FSDP"], nodes=count)
        assert ranks.run(run, tmp_path / f"part{part}", stop=stop) == [75 if stop else 0] * 2
    _close(tmp_path, alone("FSDP"))


@pytest.mark.parametrize("strategy", [pytest.param("ZeRO3", marks=pytest.mark.soak), "FSDP"])
def test_every_node_checks_what_was_saved(strategy: str, ranks: Ranks, model: Path, tmp_path: Path) -> None:
    """An adapter that was not gathered, or is another one, ends as VerificationFailed, and is not published."""
    broken = (
        "from contextlib import nullcontext as n; from finetune_trainer.training import fit; fit.whole_parameters = n"
    )
    if strategy == "FSDP":
        broken = (
            "import torch; from finetune_trainer.training import fit; real = fit.save_adapter\n"
            "def save(model, *more):\n"
            "    for name, p in model.named_parameters():\n"
            "        if 'lora_A' in name: p.data.mul_(-1)\n"
            "    real(model, *more)\n"
            "fit.save_adapter = save"
        )
    run = shared_run(tmp_path, model, strategy, 2, CASES[strategy], nodes=2)
    assert 83 in ranks.run(run, tmp_path / "work", broken=broken), _said(tmp_path / "work")
    assert outcome(tmp_path / "work").reason is Reason.VERIFICATION_FAILED
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose linear layers, 4-bit ones too, are too large for ZeRO-3 to keep whole by itself."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    tiny_tokenizer().save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=320, hidden_size=512, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=256, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    return folder


def _run(folder: Path, model: Path, strategy: str, method: dict[str, Any]) -> RunFile:
    folder.mkdir(exist_ok=True)
    return run_file(
        folder, model, method={**method, "dropout": "0"}, parallelism={"strategy": strategy}, maxSteps=30, epochs=9,
        microBatchSize=1, learningRate="1e-3", checkpoints={"everySteps": 1000},
    )  # fmt: skip


@pytest.mark.parametrize(
    "strategy", ["ZeRO3", *(pytest.param(name, marks=pytest.mark.soak) for name in ("FSDP", "ZeRO2"))]
)
def test_two_supervisors_share_one_run(strategy: str, wide: Path, tmp_path: Path) -> None:
    """Two real PID 1s: one is told to stop, both end with 75; started again they publish what one process trains."""
    run = _run(tmp_path / "two", wide, strategy, CASES[strategy])
    with nodes(run, tmp_path / "stopped", 2) as (first, second):
        first.wait_for_step(2)
        second.send(signal.SIGTERM)
        ended = [node.ended() for node in (first, second)]
    assert [(code, told.reason) for code, told in ended] == [(75, Reason.PREEMPTED)] * 2, first.output
    step = ended[0][1].step
    assert 2 <= step < 30
    with nodes(run, tmp_path / "resumed", 2) as (first, second):
        ended = [node.ended() for node in (first, second)]
    assert [(code, told.reason) for code, told in ended] == [(0, Reason.PUBLISHED), (0, Reason.TOOK_PART)], first.output
    assert f"training from step {step} of 30" in first.output
    assert f"shared out by {strategy} among 2 processes" in first.output
    execute(_run(tmp_path / "one", wide, "DDP", CASES[strategy]), tmp_path / "one/work")
    lines = (tmp_path / "two/out/.finetune/u1/metrics.jsonl").read_text().splitlines()
    losses = {entry["step"]: entry["loss"] for line in lines if "loss" in (entry := json.loads(line))}
    assert list(losses) == list(range(1, 31))
    assert list(losses.values()) == pytest.approx(logged(tmp_path / "one/work", "loss"), rel=1e-4)
    _close(tmp_path / "two", tmp_path / "one")
