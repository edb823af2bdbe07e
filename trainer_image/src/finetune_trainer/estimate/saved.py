"""What one forward pass keeps for its backward pass: the real code runs on shapes, and every tensor kept is counted."""

from contextlib import ExitStack
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from finetune_trainer.estimate.skeleton import imagine
from finetune_trainer.fast import attention, lora
from finetune_trainer.fast.gemm import onednn_pays
from finetune_trainer.fast.switch import base_of
from finetune_trainer.training.loss import has_sparse_head

_UNMASKED = "sdpa_without_mask"


def saved_bytes(model: Any, length: int, positions: int, *, dtype: torch.dtype, fast: bool) -> int:
    """Bytes that one sequence keeps up to the head's input; the head's own are the caller's to add.

    Args:
        model: From `skeleton`; it is used up.
        length: Tokens of the sequence.
        positions: Of them, those whose logits are wanted.
        dtype: What is computed in.
        fast: Whether the fast paths are on.
    """
    onednn_pays()  # it asks with real numbers, once
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    imagine(model, mode)
    model.train()
    if fast:
        lora.convert(model)
    kept: dict[int, tuple[int, Any]] = {}  # the storage is held on to, so that its address stays its own
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}  # noqa: SLF001

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:  # noqa: SLF001
            kept[storage._cdata] = (storage.nbytes(), storage)  # noqa: SLF001
        return tensor

    base = base_of(model)
    head, hidden = base.get_output_embeddings(), torch.nn.Identity()
    with ExitStack() as stack:
        stack.enter_context(mode)
        base.set_output_embeddings(hidden)
        stack.callback(base.set_output_embeddings, head)
        stack.enter_context(torch.autocast("cpu", dtype, enabled=dtype is not torch.float32))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor))
        inputs = {"input_ids": torch.zeros((1, length), dtype=torch.int64)}
        prompts = getattr(model, "active_peft_config", None) is not None and model.active_peft_config.is_prompt_learning
        places = None if prompts else torch.arange(length)[None]  # virtual tokens shift them, and peft makes them
        if places is not None:
            inputs["position_ids"] = places
        _attend(base, places, fast=fast)
        if has_sparse_head(model):
            inputs["logits_to_keep"] = torch.arange(positions)
        model(**inputs, use_cache=False)
    return sum(size for size, _ in kept.values())


def _attend(base: Any, positions: torch.Tensor | None, *, fast: bool) -> None:
    """Let the layers attend as they do to a sequence without pads, for which no mask is built: shapes cannot tell."""
    attention.register()
    AttentionInterface.register(_UNMASKED, sdpa_attention_forward)
    AttentionMaskInterface.register(_UNMASKED, lambda **_: None)
    if base.config._attn_implementation == attention.REPLACES:  # noqa: SLF001
        base.set_attn_implementation(attention.NAME if fast and positions is not None else _UNMASKED)
    if positions is not None:
        attention._seen[positions] = [(0, 0, positions.shape[1])]  # noqa: SLF001 - it would be read from the numbers
