"""A run can go on from a published adapter, if it is of the same method and fits the base."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_trainer.errors import RunError
from finetune_trainer.training import fit as fitting
from tests.trainer.tinyrun import execute, run_file

pytestmark = pytest.mark.long

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"type": "LoRA", "rank": 6, "alpha": 9, "useDoRA": True, "targetModules": ["q_proj", "up_proj"]},
    "prompt": {"type": "PromptTuning", "virtualTokens": 5, "rank": 16, "dropout": "0.05"},
}
DEFAULTS = {"rank": 16, "alpha": 32, "dropout": "0.05"}


@pytest.fixture(scope="module")
def first(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Published adapters."""
    folders = {}
    for name, method in METHODS.items():
        folder = tmp_path_factory.mktemp("first")
        execute(run_file(folder, model, method=method, maxSteps=3), folder / "work")
        folders[name] = folder / "out"
    return folders


def going_on(folder: Path, model: Path, adapter: Path, **method: Any) -> RunFile:
    """A run on from `adapter` whose method says nothing but `method`."""
    run = json.loads(run_file(folder, model, method={**DEFAULTS, **method}, maxSteps=3).to_json())
    run["model"]["adapter"] = {"uri": f"file://{adapter}"}
    return RunFile.from_json(json.dumps(run))


@pytest.mark.parametrize("name", METHODS)
def test_it_goes_on_from_the_published_numbers(
    name: str, first: dict[str, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step starts from the very bytes of the file; the result has its shape and a lower loss."""
    started: dict[str, torch.Tensor] = {}
    real = fitting.start_of

    def start_of(tuned: Any, method: Any) -> Any:
        started.update({n: p.detach().clone() for n, p in tuned.named_parameters() if p.requires_grad})
        return real(tuned, method)

    monkeypatch.setattr(fitting, "start_of", start_of)
    run = going_on(tmp_path, model, first[name], type=METHODS[name]["type"])
    outcome = execute(run, tmp_path / "work")
    before, after = (
        load_file(first[name] / "adapter_model.safetensors"),
        load_file(tmp_path / "out/adapter_model.safetensors"),
    )
    assert sorted(tensor.sum().item() for tensor in before.values()) == sorted(t.sum().item() for t in started.values())
    assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
    assert [n for n in before if torch.equal(before[n], after[n])] == []
    record = json.loads((first[name] / "manifest.json").read_bytes())
    assert record["lossAfter"] > (outcome.loss_after or 9)
    published = json.loads((tmp_path / "out/manifest.json").read_bytes())
    assert published["baseModel"]["adapter"] == f"file://{first[name]}"
    for field in ("rank", "alpha", "useDoRA"):
        assert published["method"][field] == record["method"][field]


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [
        ("lora", {"type": "IA3"}, "method.type: IA3 is not the adapter's, which is QLoRA or LoRA"),
        ("lora", {"rank": 8}, "method.rank: 8 is not the adapter's, which has 6"),
        ("lora", {"targetModules": ["q_proj"]}, "method.targetModules: .* is not the adapter's"),
        ("lora", {"useRSLoRA": True}, "method.useRSLoRA: True is not the adapter's"),
        ("prompt", {"type": "PromptTuning", "virtualTokens": 6}, "method.virtualTokens: 6 is not the adapter's"),
    ],
)
def test_a_contradiction_is_refused_by_name(
    name: str, method: dict[str, Any], words: str, first: dict[str, Path], model: Path, tmp_path: Path
) -> None:
    """The adapter's own fields hold; what says otherwise is named."""
    _refuses(going_on(tmp_path, model, first[name], **method), words, tmp_path)


def test_an_adapter_of_another_base_is_refused(first: dict[str, Path], model: Path, tmp_path: Path) -> None:
    """By the name of the first tensor that is missing, too many, or of another shape."""
    spoilt = Path(shutil.copytree(first["lora"], tmp_path / "spoilt"))
    (spoilt / "manifest.json").unlink()
    weights = load_file(spoilt / "adapter_model.safetensors")
    name = next(n for n in weights if "q_proj.lora_A" in n)
    for changed, words in (
        ({n: t for n, t in weights.items() if n != name}, f"the adapter lacks {name}"),
        ({**weights, "base_model.model.x.lora_A.weight": torch.ones(2)}, "no place for base_model.model.x"),
        ({**weights, name: torch.ones(6, 65)}, r"is \[6, 65\] in the adapter, \[6, 64\] here"),
    ):
        save_file(changed, spoilt / "adapter_model.safetensors")
        _refuses(going_on(tmp_path, model, spoilt, type="LoRA"), words, tmp_path)


def test_what_cannot_be_said_cannot_be_trained_on(first: dict[str, Path], model: Path, tmp_path: Path) -> None:
    """A setting of peft that the spec has no field for, a kind that is not known, and a file that is not there."""
    spoilt = Path(shutil.copytree(first["lora"], tmp_path / "spoilt"))
    (spoilt / "manifest.json").unlink()
    config = json.loads((spoilt / "adapter_config.json").read_bytes())
    for change, words in (
        ({"rank_pattern": {"q_proj": 3}}, "it uses rank_pattern"),
        ({"bias": "all"}, "it uses bias"),
        ({"peft_type": "LOHA"}, "of no method that can be trained on"),
    ):
        (spoilt / "adapter_config.json").write_text(json.dumps({**config, **change}))
        _refuses(going_on(tmp_path, model, spoilt, type="LoRA"), words, tmp_path)
    (spoilt / "adapter_config.json").unlink()
    with pytest.raises(RunError, match=r"adapter_config\.json does not exist") as caught:
        execute(going_on(tmp_path, model, spoilt, type="LoRA"), tmp_path / "work")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


def test_a_damaged_adapter_is_noticed(first: dict[str, Path], model: Path, tmp_path: Path) -> None:
    """Its own manifest says what its bytes are."""
    spoilt = Path(shutil.copytree(first["lora"], tmp_path / "spoilt"))
    data = bytearray((spoilt / "adapter_model.safetensors").read_bytes())
    data[-1] ^= 1
    (spoilt / "adapter_model.safetensors").write_bytes(bytes(data))
    with pytest.raises(RunError, match="the storage promised") as caught:
        execute(going_on(tmp_path, model, spoilt, type="LoRA"), tmp_path / "work")
    assert caught.value.reason is Reason.VERIFICATION_FAILED


def _refuses(run: RunFile, words: str, folder: Path) -> None:
    with pytest.raises(RunError, match=words) as caught:
        execute(run, folder / "work")
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert caught.value.hint
