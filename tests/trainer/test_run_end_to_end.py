"""One run of the tiny model, from files to a published adapter."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from finetune_api.outcome import Outcome, Reason
from finetune_api.run import RunFile
from finetune_trainer.errors import RunError
from finetune_trainer.storage.local import LocalStore
from tests.trainer.tinyrun import execute, run_file


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder of a finished QLoRA run, and its outcome."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_IMAGE", "registry.example/trainer@sha256:1")
        patch.setenv("FINETUNE_REVISION", "0123abc")
        return folder, execute(run_file(folder, model), folder / "work")


def test_outcome_says_what_was_published(finished: tuple[Path, Outcome]) -> None:
    """The outcome counts rows and tokens as a byte-level tokenizer does, and training lowers the held-out loss."""
    folder, outcome = finished
    assert outcome.reason is Reason.PUBLISHED
    assert outcome.step == 6
    assert outcome.dataset is not None
    assert outcome.dataset.rows == 20
    assert outcome.dataset.evaluation_rows == 6
    answers = [json.loads(line)["messages"][1]["content"] for line in (folder / "train.jsonl").read_text().splitlines()]
    assert outcome.dataset.trained_tokens == sum(len(answer.encode()) + 1 for answer in answers)
    assert outcome.dataset.sha256 == hashlib.sha256((folder / "train.jsonl").read_bytes()).hexdigest()
    assert outcome.loss_before is not None
    assert outcome.loss_after is not None
    assert outcome.loss_after < outcome.loss_before - 0.1
    logged = [json.loads(line) for line in (folder / "work" / "metrics.jsonl").read_text().splitlines()]
    assert [outcome.loss] == [entry["loss"] for entry in logged if "loss" in entry and entry["step"] == 6]
    assert (outcome.peak_memory_bytes or 0) > 10**8


def test_every_published_byte_matches_the_manifest(finished: tuple[Path, Outcome]) -> None:
    """Every file of the flat prefix is in the manifest with its true digest, and no checkpoint is left."""
    folder, outcome = finished
    out = folder / "out"
    assert outcome.artifact is not None
    assert outcome.artifact.manifest_sha256 == hashlib.sha256((out / "manifest.json").read_bytes()).hexdigest()
    listed = json.loads((out / "manifest.json").read_bytes())["files"]
    on_disk = {path.name for path in out.iterdir() if path.is_file()} - {"manifest.json"}
    text = json.dumps(listed)
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja"} <= on_disk
    for name in on_disk:
        assert name in text
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() in text
    assert not list((out / ".finetune/u1").glob("checkpoints/step-*"))
    assert len((out / ".finetune/u1/metrics.jsonl").read_text().splitlines()) >= 6


def test_nothing_published_names_a_path_of_the_trainer(finished: tuple[Path, Outcome], model: Path) -> None:
    """The adapter names its base as the user did; the scratch folder is in no file."""
    folder, _ = finished
    config = json.loads((folder / "out/adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == f"file://{model}"
    for path in (folder / "out").iterdir():
        if path.is_file():
            assert str(folder / "work").encode() not in path.read_bytes(), path.name


def test_the_manifest_says_where_it_comes_from(finished: tuple[Path, Outcome], model: Path) -> None:
    """The run as it was resolved can be read back and run again; image and commit are what the environment says."""
    folder, _ = finished
    said = json.loads((folder / "out/manifest.json").read_bytes())["provenance"]
    assert RunFile.from_json(json.dumps(said["run"])) == run_file(folder, model)
    assert (said["image"], said["revision"]) == ("registry.example/trainer@sha256:1", "0123abc")


def test_what_is_downloaded_again_is_checked(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that gives readers another adapter than it took is found after the upload, and leaves no manifest."""
    real = LocalStore.download

    def download(self: LocalStore, path: str, target: Path, on_bytes: Any = None) -> None:
        real(self, path, target, on_bytes)
        if path == "adapter_model.safetensors":
            save_file({n: t + 1 for n, t in load_file(target).items()}, target)

    monkeypatch.setattr(LocalStore, "download", download)
    with pytest.raises(RunError, match=r"adapter_model\.safetensors has sha256") as caught:
        execute(run_file(tmp_path, model, maxSteps=2), tmp_path / "work")
    assert caught.value.reason is Reason.VERIFICATION_FAILED
    assert not (tmp_path / "out/manifest.json").exists()
    assert (tmp_path / "out/adapter_model.safetensors").exists()


def test_every_lora_matrix_moved(finished: tuple[Path, Outcome]) -> None:
    """All 14 linear layers of the model have an adapter, and no B is where it started: at zero."""
    weights = load_file(finished[0] / "out/adapter_model.safetensors")
    b = [tensor for name, tensor in weights.items() if "lora_B" in name]
    assert len(b) == 2 * 7
    assert all(tensor.any() and torch.isfinite(tensor).all() for tensor in b)
    assert all(tensor.dtype is torch.float32 for tensor in weights.values())


def test_plain_peft_loads_the_prefix_and_gets_the_reported_loss(finished: tuple[Path, Outcome], model: Path) -> None:
    """An independent load with peft alone computes the loss of the outcome: mean over all answer tokens."""
    folder, outcome = finished
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    base = AutoModelForCausalLM.from_pretrained(model, quantization_config=nf4, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, folder / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    total, count = 0.0, 0
    with torch.inference_mode():
        for line in (folder / "eval.jsonl").read_text().splitlines():
            messages = json.loads(line)["messages"]
            prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
            prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
            answer_ids = tokenizer.encode(messages[1]["content"] + "<|im_end|>", add_special_tokens=False)
            logits = tuned(torch.tensor([prompt_ids + answer_ids])).logits[0].log_softmax(-1)
            for position, token in enumerate(answer_ids, start=len(prompt_ids) - 1):
                total -= float(logits[position, token])
                count += 1
    # On CPUs with AVX512-BF16 a plain bitsandbytes rounds the scales to bfloat16 when it evaluates; ours does not.
    assert total / count == pytest.approx(outcome.loss_after, abs=1e-3)
