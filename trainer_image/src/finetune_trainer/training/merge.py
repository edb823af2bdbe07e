"""A whole model with the adapter in its weights, and what that cost: adding rounds, and rounding can undo training.

The sum is made in float32 on the base as it was trained on, a quantized one dequantized first: merging into 4 bits
loses nearly all that was learned (https://github.com/huggingface/peft/issues/2321). Then it is rounded, saved, loaded
again as anybody would, and its held-out loss measured.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune_api.names import ActiveReason
from finetune_api.v1alpha1 import Merge, Method, MethodType, WeightType
from finetune_trainer.methods.adapter import put_saved
from finetune_trainer.methods.quantization import compute_dtype
from finetune_trainer.tasks.measure import measure
from finetune_trainer.training.inputs import Inputs
from finetune_trainer.training.model import load_base
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.scores import Scores
from finetune_trainer.training.session import Session

FOLDER = "merged"
_DTYPES = {
    WeightType.BFLOAT16: torch.bfloat16,
    WeightType.FLOAT16: torch.float16,
    WeightType.FLOAT32: torch.float32,
}
_PLAIN = Method(type=MethodType.LORA)
"""A base that is loaded as it is."""
NOISE = 0.001
"""Share of the loss that no comparison of two losses can tell from nothing."""


@dataclass(frozen=True)
class Merged:
    """A merged model on disk, measured."""

    loss: float
    refused: str = ""
    """Why it is not published; empty where it is good."""


def merge(session: Session, inputs: Inputs, wanted: Merge, before: Scores, after: Scores) -> Merged:
    """Merge the saved adapter into its base, save it beside the adapter, and measure it; first process only.

    Args:
        session: Its work folder holds the model and the saved adapter.
        inputs: Has held-out rows.
        wanted: As in the spec.
        before: Of the base model.
        after: Of the trained one.
    """
    session.reporter.phase(ActiveReason.PUBLISHING, "merging the adapter into the base, in float32")
    folder = session.work.adapter / FOLDER
    _write(session, folder, _DTYPES[wanted.dtype])
    inputs.tokenizer.save_pretrained(folder)
    loss = _measure(session, inputs, folder)
    refused = judge(before.loss, after.loss, loss, wanted)
    said = f"evaluation loss of the merged model: {loss:.4f} ({before.loss:.4f} before, {after.loss:.4f} trained)"
    session.reporter.say(f"{said}; {refused}" if refused else said)
    return Merged(loss, refused)


def judge(before: float, after: float, merged: float, wanted: Merge) -> str:
    """Why a merged model is not good enough; empty where it is.

    It may lose a share of the gain. Where training gained nothing, or next to nothing, it may still lose what no
    comparison could tell from noise.
    """
    gain, lost = before - after, merged - after
    allowed = max(gain * (100 - wanted.min_gain_kept_percent) / 100, NOISE * after)
    if lost <= allowed:  # false for NaN, too
        return ""
    kept = f"{100 * (before - merged) / gain:.0f} % of" if gain > 0 else "nothing of"
    return (
        f"merged in {wanted.dtype} the model keeps {kept} what training gained: its held-out loss is {merged:.4f}, "
        f"{after:.4f} before merging and {before:.4f} before training"
    )


def _write(session: Session, folder: Path, dtype: torch.dtype) -> None:
    run = session.run
    base = load_base(session.work.model, run.method, torch.float32, torch.device("cpu"), factory=run.extensions.model)
    if getattr(base, "hf_quantizer", None) is not None:
        base = base.dequantize(torch.float32)
    merged: Any = put_saved(base.float(), session.work.adapter).merge_and_unload(safe_merge=True)
    merged.to(dtype).save_pretrained(folder)


def _measure(session: Session, inputs: Inputs, folder: Path) -> float:
    """The mean NLL of the saved model: its weights as rounded, computing as in training."""
    assert inputs.evaluation is not None  # noqa: S101 - the spec's rules say so
    reporter, run = session.reporter, session.run
    device = session.processes.device()
    model = load_base(folder, _PLAIN, compute_dtype(run.training.precision), device, factory=run.extensions.model)
    scores = measure(
        inputs.task,
        model,
        inputs.evaluation.rows,
        inputs.task.collator,
        run.evaluation.batch_size,
        Processes(),
        lambda done: reporter.chatter(f"evaluating the merged model: {done} rows done"),
    )
    return scores.loss
