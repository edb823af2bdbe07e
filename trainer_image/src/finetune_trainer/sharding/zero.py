"""DeepSpeed's ZeRO (https://arxiv.org/abs/1910.02054), set up without its compiled parts: torch's optimizers do."""

from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32

from finetune_api.v1alpha1 import Strategy

_BUCKET_ELEMENTS = 2**25
"""Gradients that are reduced at once: 128 MB in float32."""
STAGE3 = {
    "stage3_param_persistence_threshold": 10**5,
    "stage3_max_live_parameters": 10**9,
    "stage3_max_reuse_distance": 10**9,
}
"""What ZeRO-3 keeps whole in every process, in elements, as DeepSpeed does by itself: small parameters (norms, most of
a LoRA), and as many of those that are needed again soon as a large GPU can hold. Nothing of a tiny model is shared."""
_STAGES = {Strategy.ZERO2: 2, Strategy.ZERO3: 3}


def configuration(strategy: Strategy) -> dict[str, Any]:
    """DeepSpeed's configuration; `auto` is filled in by transformers from its TrainingArguments.

    It has no bf16 section: DeepSpeed would cast the adapter itself. What is trained stays float32, and the forward
    computes under autocast, as it does without DeepSpeed.
    """
    return {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": _STAGES[strategy],
            "contiguous_gradients": True,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            **(STAGE3 if strategy is Strategy.ZERO3 else {}),
        },
    }


def prepare(model: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Make DeepSpeed and the model ready for each other; to be called right before the Trainer is made.

    For a CPU DeepSpeed would compile an all-reduce that training never uses: 40 s, and the image has no compiler.
    """
    from deepspeed import ops  # noqa: PLC0415 - imported by those who use it only

    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if dtype is not torch.float32:  # what accelerate does in every other strategy
        model.forward = convert_outputs_to_fp32(torch.autocast(device.type, dtype=dtype)(model.forward))


def forget() -> None:
    """After training: a base that is loaded from now on, by one process alone, is nobody's share."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config  # noqa: PLC0415

    unset_hf_deepspeed_config()
