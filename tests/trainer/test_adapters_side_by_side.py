"""Adapters of one base keep apart: in the bucket, when one goes on from another, and side by side in plain PEFT."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from finetune_api.run import RunFile
from tests.trainer.methodcases import plain_base
from tests.trainer.tinyrun import execute, run_file

pytestmark = pytest.mark.long
IDS = torch.arange(3, 43).reshape(2, 20)
DEFAULTS = {"rank": 16, "alpha": 32, "dropout": "0.05"}
METHODS: dict[str, dict[str, Any]] = {
    "support": {"rank": 4},
    "sales": {"rank": 6, "alpha": 9, "useDoRA": True, "targetModules": ["q_proj", "up_proj"]},
    "support-v2": DEFAULTS,  # goes on from support, whose own rank holds
}


def _digests(folder: Path) -> dict[str, str]:
    """Every file of a published adapter, by its path."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def bucket(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, str]]]:
    """Three adapters under one prefix, and the files of each as they were when its run was over."""
    folder, then = tmp_path_factory.mktemp("bucket"), {}
    for name, method in METHODS.items():
        document = json.loads(run_file(folder, model, uid=name, method=method, maxSteps=3).to_json())
        document["output"]["uri"] = f"file://{folder}/adapters/{name}"
        if name == "support-v2":
            document["model"]["adapter"] = {"uri": f"file://{folder}/adapters/support"}
        execute(RunFile.from_json(json.dumps(document)), folder / "work" / name)
        then[name] = _digests(folder / "adapters" / name)
    return folder / "adapters", then


def _logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


def test_no_run_touches_another_adapter(bucket: tuple[Path, dict[str, dict[str, str]]]) -> None:
    """Every file that a run has left is there to the byte after the others, and there is no other one."""
    folder, then = bucket
    assert {name: _digests(folder / name) for name in METHODS} == then
    assert all(f".finetune/{name}/metrics.jsonl" in files for name, files in then.items())


def test_side_by_side_each_computes_its_own(bucket: tuple[Path, dict[str, dict[str, str]]], model: Path) -> None:
    """On one base, by name, in any order: the logits, to the bit, that each has alone; off, the base's."""
    folder, _ = bucket
    alone = {name: _logits(PeftModel.from_pretrained(plain_base(model, {}), folder / name)) for name in METHODS}
    base = _logits(plain_base(model, {}))
    together = PeftModel.from_pretrained(plain_base(model, {}), folder / "support", adapter_name="support")
    together.load_adapter(folder / "sales", adapter_name="sales")
    together.load_adapter(folder / "support-v2", adapter_name="support-v2")
    for name in (*METHODS, *reversed(METHODS)):
        together.set_adapter(name)
        assert torch.equal(_logits(together), alone[name]), name
    with together.disable_adapter():
        assert torch.equal(_logits(together), base)
    different = [base, *alone.values()]
    pairs = [(one, other) for number, one in enumerate(different) for other in different[:number]]
    assert min(float((one - other).abs().max()) for one, other in pairs) > 1e-3
