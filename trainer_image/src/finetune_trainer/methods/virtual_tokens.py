"""Virtual tokens before the row: what prompt tuning and p-tuning learn."""

from typing import Any

import torch
from peft import PeftType

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError

DEFAULT = 20
"""As in peft's and the papers' examples."""


def align(model: Any) -> None:
    """Make `model` give logits for the row's own positions, as every other model does.

    peft puts virtual tokens before the row, so position 0 of the row is answered at position `num_virtual_tokens`.
    Prefix tuning keeps them in the cache, and other methods have none: nothing is done for those.

    Packed rows, which are told apart by position ids alone, are refused: peft drops those with a warning.
    """
    config = model.active_peft_config
    if config.is_prompt_learning:
        model.register_forward_pre_hook(_refuse_position_ids, with_kwargs=True)
    if config.peft_type not in (PeftType.PROMPT_TUNING, PeftType.P_TUNING):
        return
    count = config.num_virtual_tokens

    def shift(_model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        keep = kwargs.get("logits_to_keep")
        if isinstance(keep, torch.Tensor) and not _is_off(model):
            kwargs = {**kwargs, "logits_to_keep": keep + count}
        return args, kwargs

    def cut(_model: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        keep = kwargs.get("logits_to_keep")
        if not isinstance(keep, torch.Tensor) and not keep and not _is_off(model):
            output.logits = output.logits[:, count:]
        return output

    model.register_forward_pre_hook(shift, with_kwargs=True)
    model.register_forward_hook(cut, with_kwargs=True)


def _refuse_position_ids(model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get("position_ids") is not None and not _is_off(model):
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            "rows packed into one sequence do not go with virtual tokens, which every row would need for itself",
            "Turn packing off, or use another method.type.",
        )


def _is_off(model: Any) -> bool:
    """Whether `model` is inside `disable_adapter`."""
    return bool(model._adapters_disabled)  # noqa: SLF001 - peft has no public word for it
