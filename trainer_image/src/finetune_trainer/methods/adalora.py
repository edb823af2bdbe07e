"""AdaLoRA (https://openreview.net/forum?id=lq62uWRJjiY): LoRA that prunes ranks where they matter least.

All layers start with `rank`; at the end their mean is `targetRank`.
peft keeps the pattern of pruned ranks in the adapter's configuration, and cuts the saved tensors by it. While training,
it is kept here instead: a checkpoint holds whole tensors, as the optimizer's state does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from finetune_api.v1alpha1 import Method
from finetune_trainer.methods.modules import modules_to_save, target_modules

STATE = "adalora.safetensors"
BEFORE, AFTER = 0.1, 0.3
"""Share of the steps before the first rank is pruned, and after the last."""
ORTHOGONALITY = 0.5
"""Weight of the penalty that keeps A and B near orthogonal; the paper's is 0.1 to 0.5, peft's 0.5."""


def adalora_config(model: Any, method: Method) -> AdaLoraConfig:
    """The configuration for `model`; the number of steps is set when training begins.

    Raises:
        RunError: InvalidConfiguration for a module that the model does not have.
    """
    return AdaLoraConfig(
        task_type="CAUSAL_LM",
        init_r=method.rank,
        target_r=target_rank(method),
        lora_alpha=method.alpha,
        lora_dropout=float(method.dropout),
        target_modules=target_modules(model, method),
        modules_to_save=modules_to_save(model, method),
        orth_reg_weight=ORTHOGONALITY,
        total_step=1,
    )


def target_rank(method: Method) -> int:
    """The mean rank at the end."""
    return method.target_rank or method.rank // 2


def orthogonality_penalty(model: Any) -> torch.Tensor:
    """The mean distance of A A^T and B^T B from the identity, times its weight. peft adds it to its own loss only."""
    distances = []
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
            distances.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
    return ORTHOGONALITY * torch.stack(distances).mean()


def _finite(model: Any) -> bool:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return bool(torch.stack([torch.isfinite(gradient).all() for gradient in gradients]).all())


class RankPruning(TrainerCallback):  # type: ignore[misc]  # transformers publishes no types
    """Measures after each step which ranks matter, and silences the others."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._allocator = model.base_model.rankallocator
        self._pattern: dict[str, list[bool]] | None = None

    def on_train_begin(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Spread the pruning over the steps of the run; go on where a checkpoint left off."""
        config = self._model.peft_config["default"]
        config.total_step = state.max_steps
        config.tinit, config.tfinal = int(BEFORE * state.max_steps), int(AFTER * state.max_steps)
        if state.global_step:
            self.restore(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_optimizer_step(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Prune. The gradients are still there, and tell how much each number matters."""
        config, step = self._model.peft_config["default"], state.global_step + 1
        last, layers = config.total_step - config.tfinal, self._model.base_model.model
        if step < last and not _finite(layers):
            return  # float16 overflowed, and the step is left out
        if step < last or (step == last and self._allocator.ipt):
            _, pattern = self._allocator.update_and_allocate(layers, step, force_mask=step == last)
            self._pattern = pattern or self._pattern
        elif self._pattern:
            self._allocator.mask_using_rank_pattern(layers, self._pattern)

    def freeze(self, _state: Any) -> Callable[[Path], None]:
        """What the allocator remembers, to be written beside the Trainer's checkpoint."""
        tensors = {f"{kind}/{name}": tensor.clone().contiguous() for kind, name, tensor in self._memory()}
        tensors |= {f"pattern/{name}": torch.tensor(kept) for name, kept in (self._pattern or {}).items()}
        return lambda folder: save_file(tensors, folder / STATE)

    def restore(self, checkpoint: Path) -> None:
        """Read what `freeze` had written."""
        pattern = {}
        for key, tensor in load_file(checkpoint / STATE).items():
            kind, _, name = key.partition("/")
            if kind == "pattern":
                pattern[name] = tensor.tolist()
            else:
                getattr(self._allocator, kind)[name] = tensor.to(self._model.device)
        self._pattern = pattern or None

    def finish(self) -> None:
        """Tell peft what was pruned, so that it cuts the tensors that it saves."""
        self._model.peft_config["default"].rank_pattern = self._pattern

    def _memory(self) -> list[tuple[str, str, torch.Tensor]]:
        kinds = ("ipt", "exp_avg_ipt", "exp_avg_unc")
        return [(kind, name, tensor) for kind in kinds for name, tensor in getattr(self._allocator, kind).items()]
