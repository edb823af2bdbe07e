"""Parameters that do not all learn alike: `training.parameterGroups`, LoRA+, and what has no weight decay."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import ParameterGroup
from finetune_trainer.errors import RunError

_WRAPPERS = r"base_model|model|default|original_module|modules_to_save|weight|bias|\d+"


def is_vector(parameter: Any) -> bool:
    """Whether it is a norm, a bias, DoRA's magnitudes: one number for each row. ZeRO-3 keeps the shape elsewhere."""
    return len(getattr(parameter, "ds_shape", parameter.shape)) < 2


def members(model: Any, groups: Sequence[ParameterGroup]) -> dict[int, int]:
    """The number of the group that each trained parameter is in, by the parameter's id; the first that names it counts.

    Raises:
        RunError: InvalidConfiguration for a module below which nothing is trained, or nothing that is left to name.
    """
    trained = [(n, p) for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad]
    taken: dict[int, int] = {}
    for number, group in enumerate(groups):
        for module in group.modules:
            found = [id(parameter) for name, parameter in trained if f".{module}." in f".{name}"]
            if not found:
                raise _refused(f"nothing is trained in a module named {module}", [name for name, _ in trained])
            if number not in [taken.setdefault(parameter, number) for parameter in found]:
                raise _refused(f"earlier groups have all of {module}", [name for name, _ in trained])
    return taken


def regroup(
    optimizer: Any, model: Any, groups: Sequence[ParameterGroup], ratio: float, decaying: Collection[str]
) -> None:
    """Split the optimizer's groups, before its first step, by rate and decay.

    LoRA+ (https://arxiv.org/abs/2402.12354): B learns `ratio` times as fast as its group, and so do vectors, as in
    peft. The Trainer's own groups stay first: their rate is the one that is logged.

    Args:
        optimizer: A torch optimizer without state.
        model: Whose parameters it moves.
        groups: `training.parameterGroups`.
        ratio: LoRA+'s; 1 for all at one rate.
        decaying: Names of the parameters that weight decay is for.

    Raises:
        RunError: See `members`.
    """
    chosen = members(model, groups)
    decays = {id(parameter) for name, parameter in model.named_parameters() if name in decaying}
    fast = {id(p) for name, p in model.named_parameters() if ratio != 1 and ("lora_B" in name or is_vector(p))}
    rest, split = [], []
    for group in optimizer.param_groups:
        parts: dict[tuple[int, bool], list[Any]] = defaultdict(list)
        for parameter in group["params"]:
            parts[chosen.get(id(parameter), -1), id(parameter) in fast].append(parameter)
        rest.append({**group, "params": parts.pop((-1, False), [])})
        for (number, is_fast), parameters in sorted(parts.items()):
            settings = _settings(groups[number], id(parameters[0]) in decays) if number >= 0 else {}
            made = {**group, **settings, "params": parameters}
            split.append(made | {"lr": made["lr"] * ratio} if is_fast else made)
    optimizer.param_groups[:] = [*rest, *split]


def _settings(group: ParameterGroup, decays: bool) -> dict[str, float]:
    """What of a torch group's settings the spec says otherwise."""
    rate = {} if group.learning_rate is None else {"lr": float(group.learning_rate)}
    return rate if group.weight_decay is None or not decays else {**rate, "weight_decay": float(group.weight_decay)}


def _refused(message: str, names: Sequence[str]) -> RunError:
    """Layers differ by number only, and wrappers are not the user's."""
    parts = {part for name in names for part in name.split(".") if not re.fullmatch(_WRAPPERS, part)}
    return RunError(
        Reason.INVALID_CONFIGURATION,
        f"training.parameterGroups: {message}",
        f"Trained are {', '.join(sorted(parts))}; layers.0 names one layer. Remove the others.",
    )
