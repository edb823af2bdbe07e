"""Full fine-tuning moves every weight and publishes a model that transformers alone loads as it was trained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.outcome import Outcome, Reason
from finetune_trainer.errors import RunError
from finetune_trainer.training import finish
from tests.trainer.methodcases import example
from tests.trainer.tinyrun import execute, run_file

pytestmark = pytest.mark.long

PLAIN = {**example("full"), "rank": 16, "dropout": "0.05"}
IDS = torch.arange(3, 43).reshape(2, 20)


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A finished run."""
    folder = tmp_path_factory.mktemp("full")
    return folder, execute(run_file(folder, model, method=PLAIN), folder / "work")


def test_every_weight_moves(finished: tuple[Path, Outcome], model: Path) -> None:
    """The published file has the base's tensors and shapes, each with other numbers, in float32."""
    before = load_file(model / "model.safetensors")
    after = load_file(finished[0] / "out/model.safetensors")
    assert {name: tensor.shape for name, tensor in before.items()} == {name: t.shape for name, t in after.items()}
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}


def test_transformers_alone_computes_the_reported_losses(finished: tuple[Path, Outcome], model: Path) -> None:
    """Row by row without padding: the published model has the loss after, the base the loss before."""
    folder, outcome = finished
    assert outcome.loss_after is not None
    assert outcome.loss_before is not None
    assert outcome.loss_after < outcome.loss_before - 0.3
    assert _loss_by_hand(folder / "out", folder) == pytest.approx(outcome.loss_after, abs=1e-4)
    assert _loss_by_hand(model, folder) == pytest.approx(outcome.loss_before, abs=1e-4)


def test_card_and_files_say_what_it_is(finished: tuple[Path, Outcome]) -> None:
    """A model, not an adapter; and no file names the trainer's disk."""
    out = finished[0] / "out"
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {path.name for path in out.iterdir()}
    assert not (out / "adapter_config.json").exists()
    assert "library_name: transformers" in (out / "README.md").read_text()
    assert json.loads((out / "manifest.json").read_bytes())["method"]["type"] == "Full"
    card = (out / "README.md").read_text()
    assert "vllm serve FOLDER " in card
    loaded: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(out)), loaded)  # noqa: S102 - as a reader would
    assert type(loaded["model"]).__name__ == "LlamaForCausalLM"
    for path in out.iterdir():
        assert path.is_dir() or str(finished[0] / "work").encode() not in path.read_bytes(), path.name


def test_it_computes_in_16_bits_and_learns_in_32(model: Path, tmp_path: Path) -> None:
    """Its own check compares under the same rounding; what is published has steps that bfloat16 would lose."""
    outcome = execute(run_file(tmp_path, model, method=PLAIN, precision="BFloat16"), tmp_path / "work")
    assert (outcome.loss_after or 9) < (outcome.loss_before or 0) - 0.3
    weights = load_file(tmp_path / "out/model.safetensors")
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in weights.values())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda _, w: {n: torch.zeros_like(t) for n, t in w.items()}, "are all zero"),
        (lambda base, w: {**w, "lm_head.weight": base["lm_head.weight"]}, "1 tensors are as they were before training"),
        (lambda _, w: {n: t for n, t in w.items() if n != "lm_head.weight"}, "lacks 1 of"),
        (lambda _, w: {n: t * 1.1 for n, t in w.items()}, "does not compute what was trained"),
    ],
    ids=["zeroed", "one left out", "one missing", "another model"],
)
def test_verification_refuses_a_spoilt_file(
    spoil: Any, words: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between save and check, the file becomes another one: nothing is published."""
    real = finish.check_weights

    def check(folder: Path, start: Any) -> None:
        weights = spoil(load_file(model / "model.safetensors"), load_file(folder / "model.safetensors"))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        real(folder, start)

    monkeypatch.setattr(finish, "check_weights", check)
    with pytest.raises(RunError, match=words) as caught:
        execute(run_file(tmp_path, model, method=PLAIN, maxSteps=2), tmp_path / "work")
    assert caught.value.reason is Reason.VERIFICATION_FAILED
    assert not (tmp_path / "out/manifest.json").exists()


def _loss_by_hand(folder: Path, data: Path) -> float:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    total, count = 0.0, 0
    for line in (data / "eval.jsonl").read_text().splitlines():
        messages = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        answer_ids = tokenizer.encode(messages[1]["content"] + "<|im_end|>", add_special_tokens=False)
        with torch.inference_mode():
            logits = model(torch.tensor([prompt_ids + answer_ids])).logits[0].double().log_softmax(-1)
        total -= sum(float(logits[len(prompt_ids) - 1 + i, token]) for i, token in enumerate(answer_ids))
        count += len(answer_ids)
    return total / count
