"""A merged model computes what was trained, is measured as it is published, and is refused where it forgot."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.outcome import Outcome, Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Merge
from finetune_trainer.training import merge as merging
from finetune_trainer.training.merge import judge
from tests.trainer.methodcases import example, plain_base
from tests.trainer.tinyrun import execute, run_file

GAINS = st.floats(-1, 5) | st.floats(-0.01, 0.01)


@given(after=st.floats(0.1, 10), gain=GAINS, kept=st.floats(-0.2, 1.2), percent=st.integers(1, 100))
def test_the_gain_is_kept_or_the_model_refused(after: float, gain: float, kept: float, percent: int) -> None:
    """Good is what keeps `percent` of the gain, or lost less than a thousandth of the loss; all else is refused."""
    lost = (1 - kept) * abs(gain)
    assume(abs(100 * kept - percent) > 1e-3)
    assume(abs(lost - after / 1000) > 1e-6)
    good = (gain > 0 and 100 * kept > percent) or lost < after / 1000
    assert (not judge(after + gain, after, after + lost, Merge(min_gain_kept_percent=percent))) == good


def test_a_loss_that_is_no_number_is_refused() -> None:
    """NaN compares with nothing, and must not pass for good."""
    assert "nan" in judge(3.0, 1.0, float("nan"), Merge())


def merged_run(folder: Path, model: Path, method: dict[str, Any], merge: dict[str, Any], **training: Any) -> RunFile:
    """A run that merges."""
    run = run_file(folder, model, method=method, **training)
    output = run.output.model_copy(update={"merge": Merge.model_validate(merge)})
    return run.model_copy(update={"output": output})


CASES: dict[str, dict[str, Any]] = {
    "qlora": example("qlora"),
    "int8": example("int8"),
    "dora": example("dora"),
    "pissa": example("pissa"),
    "lora-with-head": example("lora-with-head"),
    "adalora": example("adalora"),
    "ia3": example("ia3"),
}
FASTER = {
    "adalora": {"learningRate": "2e-2", "maxSteps": 10},
    "ia3": {"learningRate": "5e-2"},
}


@pytest.mark.long
@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_the_adapter_does(name: str, model: Path, tmp_path: Path) -> None:
    """Plain transformers loads `merged/` alone, and its logits are those of plain peft on the base it had."""
    run = merged_run(
        tmp_path, model, {"rank": 16, "dropout": "0.05", **CASES[name]}, {"dtype": "Float32"}, **FASTER.get(name, {})
    )
    outcome = execute(run, tmp_path / "work")
    assert outcome.reason is Reason.PUBLISHED
    assert outcome.loss_merged == pytest.approx(outcome.loss_after, abs=1e-4)
    out = tmp_path / "out"
    assert "quantization_config" not in json.loads((out / "merged/config.json").read_bytes())
    whole = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of AdaLoRA's pattern
        adapted = PeftModel.from_pretrained(plain_base(model, run.method.model_dump(by_alias=True, mode="json")), out)
    ids = torch.arange(3, 43).reshape(2, 20)
    with torch.inference_mode():
        assert torch.allclose(whole(ids).logits, adapted.eval()(ids).logits, atol=2e-4)
    assert AutoTokenizer.from_pretrained(out / "merged")("Say 1.").input_ids
    listed = json.loads((out / "manifest.json").read_bytes())
    assert listed["lossMerged"] == outcome.loss_merged
    assert {f"merged/{path.name}" for path in (out / "merged").iterdir()} <= listed["files"].keys()


@pytest.mark.long
def test_the_loss_told_is_that_of_the_published_dtype(model: Path, tmp_path: Path) -> None:
    """In bfloat16 the model has rounded weights, and the loss told is theirs, not the one before rounding."""
    outcome = execute(merged_run(tmp_path, model, {}, {"minGainKeptPercent": 50}), tmp_path / "work")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out/merged").eval()
    assert whole.dtype is torch.bfloat16
    assert outcome.loss_merged == pytest.approx(_loss_by_hand(whole.float(), tmp_path), abs=1e-4)
    assert outcome.loss_merged != pytest.approx(outcome.loss_after, abs=1e-6)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit")
def test_merging_into_4_bits_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The merge that many tools make forgets: it is not published, the adapter is, and the outcome has the numbers."""

    def into_4_bits(session: Any, folder: Path, dtype: torch.dtype) -> None:
        base = merging.load_base(session.work.model, session.run.method, torch.float32, torch.device("cpu"))
        merged: Any = PeftModel.from_pretrained(base, session.work.adapter).merge_and_unload()
        merged.dequantize(torch.float32).to(dtype).save_pretrained(folder)

    monkeypatch.setattr(merging, "_write", into_4_bits)
    outcome = execute(merged_run(tmp_path, model, {}, {"minGainKeptPercent": 99}), tmp_path / "work")
    assert outcome.reason is Reason.MERGE_REFUSED
    assert_adapter_only(outcome, tmp_path / "out")


def assert_adapter_only(outcome: Outcome, out: Path) -> None:
    """Nothing of the merged model is published, and the adapter is, whole."""
    assert outcome.artifact is not None
    for number in (outcome.loss_before, outcome.loss_after, outcome.loss_merged):
        assert f"{number:.4f}" in outcome.message
    assert not (out / "merged").exists()
    listed = json.loads((out / "manifest.json").read_bytes())
    assert "adapter_model.safetensors" in listed["files"]
    assert listed["mergeRefused"]
    assert len(listed["files"]) == outcome.artifact.files


def _loss_by_hand(model: Any, folder: Path) -> float:
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    total, count = 0.0, 0
    with torch.inference_mode():
        for line in (folder / "eval.jsonl").read_text().splitlines():
            question, answer = (message["content"] for message in json.loads(line)["messages"])
            prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            first = len(tokenizer(prompt).input_ids)
            ids = tokenizer(f"{prompt}{answer}<|im_end|>").input_ids
            told = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            total -= sum(float(told[place - 1, ids[place]]) for place in range(first, len(ids)))
            count += len(ids) - first
    return total / count
