"""Whatever the processes share out, they train what one process trains, and save what one process saves."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from finetune_api.outcome import Reason
from tests.tiny import tiny_tokenizer
from tests.trainer.methodcases import plain_base
from tests.trainer.ranks import STEPS, Ranks, logged, outcome, shared_run

pytestmark = pytest.mark.long

LORA = {"type": "LoRA"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "DDP": ("DDP", {}),
    "ZeRO2 on NF4": ("ZeRO2", {}),
    "ZeRO2": ("ZeRO2", LORA),
    "ZeRO3 on NF4": ("ZeRO3", {}),
    "ZeRO3": ("ZeRO3", LORA),
    "FSDP": ("FSDP", LORA),
}
EACH_STRATEGY = ["DDP", "ZeRO2 on NF4", "ZeRO3 on NF4", "FSDP"]
LOSS = 2e-6
"""Relative. Sums of float32 in another order; the losses are means over some hundred tokens."""
UNREAD = ("training_args.bin", "README.md")
"""Storage never gets them."""
WEIGHT = 1e-4
"""AdamW divides a gradient by its size: where that is near zero, rounding decides over parts of a step of 5e-3."""


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """The workers' common ancestor."""
    started = Ranks()
    yield started
    started.close()


Finished = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def finished(ranks: Ranks, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The folder of a run that nobody stopped, of a case by so many processes; its work folder is `work` in there."""

    @cache
    def go(case: str, processes: int) -> Path:
        folder = tmp_path_factory.mktemp("straight")
        strategy, method = CASES[case]
        run = shared_run(folder, model, strategy, processes, method)
        codes = ranks.run(run, folder / "work")
        assert codes == [0] * processes, (folder / "work.0.output").read_text()
        return folder

    return go


@pytest.fixture(scope="module")
def alone(finished: Finished) -> Callable[[str], Path]:
    """The same by one process."""
    return lambda case: finished("ZeRO2" if CASES[case][1] else "DDP", 1)


def _adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "out/adapter_model.safetensors")


def _close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.shape == other[name].shape, name
        assert float((tensor - other[name]).abs().max()) < WEIGHT, name


@pytest.mark.parametrize("case", CASES)
def test_several_processes_train_what_one_trains(case: str, finished: Finished, alone: Callable[[str], Path]) -> None:
    """Loss, gradient norm and held-out loss of every step, and the adapter, agree to rounding of float32.

    No two processes train as many tokens, and each accumulates over two micro-batches.
    """
    shared, single = finished(case, 2) / "work", alone(case) / "work"
    assert len(logged(shared, "loss")) == STEPS
    for name in ("loss", "eval_loss"):
        assert logged(shared, name) == pytest.approx(logged(single, name), rel=LOSS), name
    assert logged(shared, "grad_norm") == pytest.approx(logged(single, "grad_norm"), rel=1e-4)
    _close(_adapter(finished(case, 2)), _adapter(alone(case)))


@pytest.mark.parametrize("case", CASES)
def test_plain_peft_computes_what_was_trained(case: str, finished: Finished, model: Path) -> None:
    """The published adapter is whole: loaded by peft, it gives the loss that the run found in the end, by hand."""
    folder = finished(case, 2)
    assert all(tensor.numel() and tensor.any() for tensor in _adapter(folder).values())
    tuned = PeftModel.from_pretrained(plain_base(model, CASES[case][1]), folder / "out")
    tokenizer, total, count = tiny_tokenizer(), 0.0, 0
    for line in (folder / "eval.jsonl").read_text().splitlines():
        question, answer = (message["content"] for message in json.loads(line)["messages"])
        prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        start = len(tokenizer(prompt)["input_ids"])
        ids = torch.tensor(tokenizer(f"{prompt}{answer}<|im_end|>")["input_ids"])
        with torch.inference_mode():
            logs = tuned(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        total -= float(logs[start - 1 : -1].gather(1, ids[start:, None]).sum())
        count += len(ids) - start
    assert total / count == pytest.approx(outcome(folder / "work").loss_after, rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_is_that_of_one_process(case: str, finished: Finished, alone: Callable[[str], Path]) -> None:
    """Optimizer and schedule: the same keys, shapes and counts, and numbers that agree to rounding.

    And nothing lies beside them that another number of processes could not read.
    """
    shared, single = (folder / f"work/checkpoints/checkpoint-{STEPS}" for folder in (finished(case, 2), alone(case)))
    ours, theirs = (torch.load(folder / "optimizer.pt", weights_only=True) for folder in (shared, single))
    assert ours["param_groups"] == theirs["param_groups"]
    assert ours["state"].keys() == theirs["state"].keys()
    for number, state in theirs["state"].items():
        assert float(ours["state"][number]["step"]) == float(state["step"]) == STEPS
        for name in ("exp_avg", "exp_avg_sq"):
            found = ours["state"][number][name]
            assert found.any()
            assert torch.allclose(found, state[name], rtol=1e-3, atol=1e-6), (number, name)
    schedules = [torch.load(folder / "scheduler.pt", weights_only=True) for folder in (shared, single)]
    assert schedules[0] == schedules[1]
    assert {path.name for path in shared.iterdir()} - {"rng_state_0.pth", "rng_state_1.pth", *UNREAD} == {
        path.name for path in single.iterdir()
    } - {"rng_state.pth", *UNREAD}


@pytest.mark.parametrize("case", EACH_STRATEGY)
def test_one_process_is_told_to_stop_and_all_go_on_later(
    case: str, ranks: Ranks, finished: Finished, model: Path, tmp_path: Path
) -> None:
    """SIGTERM to rank 1 alone: all end with 75 after the same step; resumed, the adapter has the very same bits."""
    run = shared_run(tmp_path, model, CASES[case][0], 2, CASES[case][1])
    assert ranks.run(run, tmp_path / "first", stop={1: 3}) == [75, 75]
    assert (outcome(tmp_path / "first").reason, outcome(tmp_path / "first").step) == (Reason.PREEMPTED, 3)
    stored = tmp_path / "out/.finetune/u1/checkpoints/step-00000003"
    assert {path.name for path in stored.glob("rng*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert ranks.run(run, tmp_path / "second") == [0, 0]
    assert "training from step 3 of 6" in (tmp_path / "second.0.output").read_text()
    published = [folder / "out/adapter_model.safetensors" for folder in (tmp_path, finished(case, 2))]
    assert published[0].read_bytes() == published[1].read_bytes()


@pytest.mark.parametrize("case", EACH_STRATEGY)
def test_the_number_of_processes_may_change(
    case: str, ranks: Ranks, alone: Callable[[str], Path], model: Path, tmp_path: Path
) -> None:
    """Two processes, all told to stop; then one; then two again: what one process trains in one go."""
    strategy, method = CASES[case]
    for part, (processes, stop) in enumerate(((2, {0: 2, 1: 2}), (1, {0: 4}), (2, {}))):
        run = shared_run(tmp_path, model, strategy, processes, method)
        codes = ranks.run(run, tmp_path / f"part{part}", stop=stop)
        said = (tmp_path / f"part{part}.0.output").read_text()
        assert codes == ([75] if stop else [0]) * processes, said
        assert part == 0 or f"training from step {2 * part} of 6" in said
        assert ("dropout goes on with other random numbers" in said) == (part > 0)
    single = alone(case) / "work"
    assert logged(tmp_path / "part2", "loss") == pytest.approx(logged(single, "loss"), rel=LOSS)
    _close(_adapter(tmp_path), _adapter(alone(case)))


def test_a_strategy_may_change(ranks: Ranks, alone: Callable[[str], Path], model: Path, tmp_path: Path) -> None:
    """A checkpoint of FSDP goes on under ZeRO-3, and one of that under ZeRO-2."""
    for part, (strategy, stop) in enumerate((("FSDP", {0: 2}), ("ZeRO3", {0: 4}), ("ZeRO2", {}))):
        codes = ranks.run(shared_run(tmp_path, model, strategy, 2, LORA), tmp_path / f"part{part}", stop=stop)
        assert codes == [75 if stop else 0] * 2, (tmp_path / f"part{part}.0.output").read_text()
    _close(_adapter(tmp_path), _adapter(alone("FSDP")))


def test_an_adapter_that_was_not_gathered_is_caught(ranks: Ranks, model: Path, tmp_path: Path) -> None:
    """The empty adapter of ZeRO-3 that others have published ends as VerificationFailed, and is not published."""
    broken = (
        "from contextlib import nullcontext as n; from finetune_trainer.training import fit; fit.whole_parameters = n"
    )
    codes = ranks.run(shared_run(tmp_path, model, "ZeRO3", 2, {}), tmp_path / "work", broken=broken)
    assert 83 in codes
    assert outcome(tmp_path / "work").reason is Reason.VERIFICATION_FAILED
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize("strategy", ["ZeRO3", "FSDP"])
def test_a_shared_model_computes_without_fast_paths(strategy: str, finished: Finished) -> None:
    """They would multiply by weights that are not there; the log says that they are off."""
    case = f"{strategy} on NF4" if strategy == "ZeRO3" else strategy
    assert "fast paths: none, for the weights are shared out" in (finished(case, 2) / "work.0.output").read_text()
    assert "14 LoRA layers" in (finished("ZeRO2", 2) / "work.0.output").read_text()
