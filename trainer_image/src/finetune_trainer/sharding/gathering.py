"""What DeepSpeed has shared out, whole again in every process. All of them take part in each call.

The optimizer's state gets the form that a torch optimizer of one process gives it: by the number of its parameter.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from finetune_trainer.fast.sharding import is_whole_model

STATES = ("exp_avg", "exp_avg_sq")
"""AdamW's, by parameter; beside them it counts its steps."""

Groups = Sequence[dict[str, Any]]
"""The optimizer's parameter groups before they were shared out. Some have no parameters; DeepSpeed drops those."""
_OF_A_GROUP = ("base_lrs", "_last_lr", "lr_lambdas")
"""What a scheduler holds by parameter group. All groups have one learning rate."""


@contextmanager
def whole_parameters(model: torch.nn.Module) -> Iterator[None]:
    """Within: every trained parameter of `model` is all here. What is written to it is lost."""
    shared = [p for p in model.parameters() if p.requires_grad and hasattr(p, "ds_id")]
    if not shared:
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters  # noqa: PLC0415

    with GatheredParameters(shared):
        yield


def trained_state(model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
    """What peft shall save of a model that is shared out; None where it may look for itself.

    It would gather the whole base, for each process, to leave it out again.
    """
    if is_whole_model(model):
        return None
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def gather_optimizer(engine: Any, groups: Groups) -> dict[str, Any]:
    """The state dict of the torch optimizer below DeepSpeed's `engine`, as if it had never been shared out."""
    from deepspeed.utils import safe_get_full_optimizer_state  # noqa: PLC0415

    optimizer = engine.optimizer.optimizer
    parameters = [parameter for group in groups for parameter in group["params"]]
    steps = {float(state["step"]) for state in optimizer.state.values() if "step" in state}
    (step,) = steps or {0.0}
    state = {
        number: {"step": torch.tensor(step)}
        | {name: safe_get_full_optimizer_state(parameter, name).clone().cpu() for name in STATES}
        for number, parameter in enumerate(parameters)
    }
    return {"state": state, "param_groups": _described(optimizer.param_groups[0], groups)}


def scatter_optimizer(engine: Any, groups: Groups, saved: dict[str, Any]) -> None:
    """Give each process its share of what `gather_optimizer`, or the optimizer of one process, has saved.

    Raises:
        ValueError: It belongs to other parameters.
    """
    zero = engine.optimizer
    parameters = [parameter for group in groups for parameter in group["params"]]
    if len(saved["state"]) != len(parameters):
        raise ValueError(f"the optimizer's state has {len(saved['state'])} parameters, the model {len(parameters)}")
    is_stage3 = hasattr(zero, "fp32_partitioned_groups_flat")
    flats = zero.fp32_partitioned_groups_flat if is_stage3 else zero.single_partition_of_fp32_groups
    step = torch.as_tensor(saved["state"][0]["step"], dtype=torch.float32)
    for flat in flats:
        zero.optimizer.state[flat] = {"step": step.clone().to(flat.device)}
        zero.optimizer.state[flat] |= {name: torch.zeros_like(flat) for name in STATES}
    if not is_stage3:
        zero._lazy_init_hp_params_optimizer_state()  # noqa: SLF001 - else done after its first step only
    for number, parameter in enumerate(parameters):
        for name in STATES:
            _scatter(parameter, saved["state"][number][name], name)
    described = [group for group in saved["param_groups"] if group["params"]]
    for group, settings in zip(zero.optimizer.param_groups, described, strict=True):
        group.update({name: value for name, value in settings.items() if name != "params"})


def gather_scheduler(scheduler: Any, groups: Groups) -> dict[str, Any]:
    """The state dict of a scheduler over all groups, those without parameters too."""
    state: dict[str, Any] = scheduler.state_dict()
    return state | {name: state[name][:1] * len(groups) for name in _OF_A_GROUP if name in state}


def scatter_scheduler(scheduler: Any, saved: dict[str, Any]) -> None:
    """Load what `gather_scheduler`, or the scheduler of one process, has saved."""
    count = len(scheduler.base_lrs)
    scheduler.load_state_dict(saved | {name: saved[name][:count] for name in _OF_A_GROUP if name in saved})


def _scatter(parameter: Any, whole: torch.Tensor, name: str) -> None:
    """Write this process's share of one parameter's state."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state  # noqa: PLC0415

    if whole.shape != getattr(parameter, "ds_shape", parameter.shape):
        raise ValueError(f"the optimizer's state has the shape {tuple(whole.shape)} for a parameter of another shape")
    if not hasattr(parameter, "ds_id"):
        safe_set_full_optimizer_state(parameter, whole.to(parameter.device), name)
        return
    # Stage 3 pads the last share; its own function for whole tensors does not expect that.
    size, rank = parameter.ds_tensor.numel(), torch.distributed.get_rank()
    share = torch.zeros(size, dtype=whole.dtype)
    mine = whole.flatten()[rank * size : (rank + 1) * size]
    share[: len(mine)] = mine
    safe_set_local_optimizer_state(parameter, share.to(parameter.device), name)


def _described(now: dict[str, Any], groups: Groups) -> list[dict[str, Any]]:
    """The settings of each group at the learning rate of now, with the numbers of its parameters."""
    rates: dict[str, Any] = {name: now[name] for name in ("lr", "initial_lr") if name in now}
    described: list[dict[str, Any]] = []
    first = 0
    for group in groups:
        numbers = list(range(first, first + len(group["params"])))
        described.append({**group, **rates, "params": numbers})
        first += len(numbers)
    return described
