"""A loss that is no number ends a run that shares out its optimizer, with its rows and its last good checkpoint."""

import re
from pathlib import Path

import pytest

from finetune_api.outcome import Reason
from finetune_trainer.publish import CheckpointStore
from finetune_trainer.storage import open_store
from tests.tiny import tiny_tokenizer
from tests.trainer.ranks import Ranks, outcome, shared_run

BAD_ROW = 14
"""Its question is `Say 13.`"""
POISON = """
from finetune_trainer.tasks import causal_lm
real, bad = causal_lm.nll_sum, {tokens}
def poisoned(model, batch, **more):
    rows = batch["input_ids"].tolist()
    spoilt = any(row[at : at + len(bad)] == bad for row in rows for at in range(len(row)))
    return real(model, batch, **more) * (float("nan") if spoilt else 1.0)
causal_lm.nll_sum = poisoned
"""


@pytest.mark.long
def test_a_row_that_gives_nan_is_named_under_zero2(model: Path, tmp_path: Path) -> None:
    """One of two processes meets it: 81 with the rows of its micro-batch; the checkpoint of the step before stays."""
    run = shared_run(tmp_path, model, "ZeRO2", 2, {})
    saves = run.training.checkpoints.model_copy(update={"every_steps": 1})
    run = run.model_copy(update={"training": run.training.model_copy(update={"checkpoints": saves})})
    bad = tiny_tokenizer()(f"Say {BAD_ROW - 1}.")["input_ids"]
    ranks = Ranks()
    try:
        codes = ranks.run(run, tmp_path / "work", broken=POISON.format(tokens=bad))
    finally:
        ranks.close()
    ended = outcome(tmp_path / "work")
    assert ended.reason is Reason.NON_FINITE_LOSS, (codes, ended)
    assert 81 in codes
    found = re.fullmatch(
        r"the loss of step (\d) is nan \(.*\), in train\.jsonl:(\d+), train\.jsonl:(\d+)", ended.message
    )
    assert found is not None, ended.message
    assert str(BAD_ROW) in found.groups()[1:]
    store = CheckpointStore(open_store(run.output.uri, run.storage), run.uid, lambda _: None)
    assert store.newest() == int(found[1]) - 1 > 0
    assert store.restore_newest(tmp_path / "restored") is not None
