"""A dataset that cannot be trained with this model, or at all, ends in `prepare`, before anything is stored."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_api.names import Stage
from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_trainer.errors import RunError
from finetune_trainer.preparation.positions import TABLES
from finetune_trainer.preparation.stage import execute as prepare_stage
from finetune_trainer.training.stop import StopSwitch
from finetune_trainer.workdir import WorkDir
from tests.tiny import jsonl, tiny_tokenizer
from tests.trainer.tinyrun import execute, run_file

END = 2
"""The tiny tokenizer's token that ends a turn; the tiny model knows 320 tokens."""


def refused(run: RunFile, work: Path) -> RunError:
    """Why the stage refuses; nothing was stored."""
    with pytest.raises(RunError) as caught:
        prepare_stage(run.model_copy(update={"stage": Stage.PREPARE}), WorkDir(work), StopSwitch())
    assert not list(work.parent.glob("out/**/tokens.bin"))
    return caught.value


def changed(run: RunFile, **parts: Any) -> RunFile:
    """The run with parts of its document replaced."""
    return RunFile.from_json(json.dumps(json.loads(run.to_json()) | parts))


def tokenized(folder: Path, model: Path, foreign: str) -> RunFile:
    """A run on rows of tokens, the second of which has a foreign one in the file `foreign`."""
    run = run_file(folder, model, maxSteps=1)
    for name in ("train", "eval"):
        tokens = [[5, 6, END], [5, 320 if name == foreign else 319, END]]
        (folder / f"{name}.jsonl").write_text(jsonl([{"input_ids": ids} for ids in tokens]))
    return run


@pytest.mark.parametrize("foreign", ["train", "eval"])
def test_tokens_that_the_model_does_not_have(foreign: str, model: Path, tmp_path: Path) -> None:
    """The row is named, of training and of held-out rows."""
    error = refused(tokenized(tmp_path, model, foreign), tmp_path / "work")
    assert error.reason is Reason.INVALID_DATASET
    assert error.message.startswith(f"{foreign}.jsonl:2 ")


def test_a_run_without_a_stage_before_it_refuses_them_too(model: Path, tmp_path: Path) -> None:
    """`finetune run` trains nothing on a model that could not be evaluated."""
    with pytest.raises(RunError, match=r"eval\.jsonl:2 ") as caught:
        execute(tokenized(tmp_path, model, "eval"), tmp_path / "work")
    assert caught.value.reason is Reason.INVALID_DATASET


def test_weights_that_leave_an_epoch_without_rows(model: Path, tmp_path: Path) -> None:
    """A weight of a hundredth of 20 rows rounds to none."""
    run = run_file(tmp_path, model)
    train = {"uri": f"file://{tmp_path}/train.jsonl", "weight": "0.01"}
    error = refused(changed(run, dataset={"train": train}), tmp_path / "work")
    assert error.reason is Reason.EMPTY_DATASET
    assert "an epoch has no row" in error.message


@pytest.mark.parametrize("kind", ["no-such-model", "t5"])
def test_a_model_that_transformers_cannot_build_for_the_task(kind: str, model: Path, tmp_path: Path) -> None:
    """An architecture that nobody knows, and one that is no causal language model."""
    base = shutil.copytree(model, tmp_path / "base")
    config = json.loads((base / "config.json").read_bytes())
    (base / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    error = refused(run_file(tmp_path, base), tmp_path / "work")
    assert error.reason is Reason.INVALID_CONFIGURATION
    assert "the model cannot be loaded" in error.message


SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 24, "n_embd": 16, "n_layer": 1, "n_head": 2},
    "opt": {
        "max_position_embeddings": 24, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2,
    },
    "llama": {
        "max_position_embeddings": 24, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    },
}  # fmt: skip


def longest_row(kind: str, folder: Path, **method: Any) -> int:
    """Prepare and train rows of 2 to 30 tokens on a model with 24 positions; the longest of those that are kept."""
    tiny_tokenizer().save_pretrained(folder / "base")
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=320, **SIZES[kind])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "base")
    run = run_file(folder, folder / "base", maxSteps=1, maxLength=64)
    (folder / "train.jsonl").write_text(jsonl([{"input_ids": [7] * n + [END]} for n in range(1, 30)]))
    held_out = {"uri": f"file://{folder}/train.jsonl"}
    run = changed(run, dataset={"train": held_out, "evaluation": held_out}, method=method)
    outcome = prepare_stage(run.model_copy(update={"stage": Stage.PREPARE}), WorkDir(folder / "a"), StopSwitch())
    assert outcome.dataset
    assert outcome.dataset.rows + outcome.dataset.dropped_rows // 2 == 29
    assert execute(run, folder / "b").reason is Reason.PUBLISHED
    return outcome.dataset.rows + 1


@pytest.mark.parametrize(("kind", "longest"), [("gpt2", 24), ("opt", 24), ("llama", 30)])
def test_no_row_is_longer_than_a_table_of_positions(kind: str, longest: int, tmp_path: Path) -> None:
    """The longest row that fits the table is trained and evaluated, the next one is left out; rotary models go on."""
    assert longest_row(kind, tmp_path, type="Full") == longest


def test_virtual_tokens_take_positions(tmp_path: Path) -> None:
    """They stand before the row, so the row has as many less."""
    assert longest_row("gpt2", tmp_path, type="PromptTuning", virtualTokens=5) == 19


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_every_table_has_a_length(kind: str) -> None:
    """The config of each model that has one says how long it is."""
    assert AutoConfig.for_model(kind).max_position_embeddings > 0
