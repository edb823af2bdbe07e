"""Which strategy a run has, and what follows from it before anything is trained."""

import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Strategy
from finetune_trainer.errors import RunError
from finetune_trainer.sharding.strategy import hide_deepspeed, strategy_of
from tests.trainer.tinyrun import execute, run_file, session


def _run(folder: Path, model: Path, strategy: str, processes: int, **changes: Any) -> RunFile:
    run = run_file(folder, model, method={"type": "LoRA"}, parallelism={"strategy": strategy}, **changes)
    return run.model_copy(update={"processes": processes})


def test_a_lone_process_shares_nothing(model: Path, tmp_path: Path) -> None:
    """Of what was saved by two, one process goes on by itself, under any strategy."""
    for strategy in Strategy:
        assert strategy_of(_run(tmp_path, model, strategy, 2)) is strategy
        assert strategy_of(_run(tmp_path, model, strategy, 1)) is Strategy.DDP


def test_deepspeed_is_not_imported_where_it_is_not_used(model: Path, tmp_path: Path) -> None:
    """A whole run with DeepSpeed installed imports nothing of it; transformers would, when it saves."""
    hide_deepspeed()
    execute(_run(tmp_path, model, "ZeRO3", 1, maxSteps=1), tmp_path / "work")
    from transformers.integrations.deepspeed import is_deepspeed_available

    assert not is_deepspeed_available()
    assert not [name for name in sys.modules if name.startswith("deepspeed.")]


def test_float16_is_refused_by_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody asked for it: Auto takes it on an older GPU."""
    import torch

    from finetune_trainer.training import preflight

    monkeypatch.setattr(preflight, "compute_dtype", lambda _: torch.float16)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(RunError, match="ZeRO2 does not scale the loss") as caught:
        preflight.check_configuration(session(_run(tmp_path, model, "ZeRO2", 2), tmp_path / "work"))
    assert caught.value.reason is Reason.INVALID_CONFIGURATION


def test_a_share_takes_less_of_a_gpu(model: Path, tmp_path: Path) -> None:
    """FSDP: a quarter of the base and two layers at most. ZeRO-3 has the base whole while it is read."""
    import torch

    from finetune_trainer.estimate.estimate import anatomy

    weights = {}
    for strategy in ("DDP", "ZeRO3", "FSDP"):
        run = _run(tmp_path, model, strategy, 4).model_copy(update={"gpus": 4})
        parts = anatomy(run, model, 64, 32, torch.bfloat16, "cuda")
        weights[strategy] = parts.weights
        assert parts.fast == (strategy == "DDP")
    assert weights["ZeRO3"] == weights["DDP"]
    layers = 2
    assert weights["FSDP"] == min(weights["DDP"], weights["DDP"] // 4 + 2 * weights["DDP"] // layers)
