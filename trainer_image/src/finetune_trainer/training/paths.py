"""Decide how this run computes: the fast paths that apply to its model, and whether it may pack."""

from collections.abc import Sequence
from typing import Any

from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.collate import tensor
from finetune_trainer.data.tokens import TokenRow
from finetune_trainer.fast.switch import FastPaths, turn_on
from finetune_trainer.sharding.strategy import strategy_of
from finetune_trainer.training.isolation import check_isolation, packing_error, tolerance
from finetune_trainer.training.session import Session


def choose_paths(session: Session, model: Any, rows: Sequence[TokenRow]) -> FastPaths:
    """Turn on what the run allows and the model is fit for, as it shows with `rows`: a few short ones of the dataset.

    Raises:
        RunError: InvalidConfiguration where the run packs and the model does not keep packed rows apart.
    """
    training, say, device = session.run.training, session.reporter.say, session.processes.device()
    paths = FastPaths(model)
    if session.run.task.type is not TaskType.CAUSAL_LM:
        say(f"fast paths: none is for {session.run.task.type}")
        return paths
    if training.fast_paths and strategy_of(session.run).shares_weights:
        say("fast paths: none, for the weights are shared out")
    elif training.fast_paths:
        shortest = min((rows[number] for number in range(len(rows))), key=len)
        paths = turn_on(model, tensor(shortest.input_ids)[None].to(device))
        say(f"fast paths: {paths}")
    if training.packing:
        if paths.attention and not packing_error(model, rows, device) <= tolerance(model):
            paths.turn_off_attention()
            say("the model's layers do not tell where a packed row begins: its own attention is used")
        say(check_isolation(model, rows, device))
    return paths
