"""Code that is not ours beside the training loop and in evaluations: callbacks, metrics, a model factory."""

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from finetune_api.names import ActiveReason
from finetune_api.outcome import Reason
from finetune_trainer.data.tokens import TokenRow
from finetune_trainer.errors import RunError
from finetune_trainer.extensions import failed, load_extension
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.session import Session

log = logging.getLogger(__name__)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_OURS = ("loss", "perplexity")


class Guarded:
    """A callback whose errors go to `on_error`; that decides whether they end the run."""

    def __init__(self, callback: Any, on_error: Callable[[Exception], None]) -> None:
        self.callback = callback
        self._on_error = on_error

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.callback, name)
        if not name.startswith("on_"):
            return value

        def call(*arguments: Any, **keywords: Any) -> Any:
            try:
                return value(*arguments, **keywords)
            except Exception as error:
                self._on_error(error)
                return None

        return call


def callbacks(session: Session) -> list[Any]:
    """The callbacks that the run names, made anew.

    Raises:
        RunError: InvalidConfiguration, for one that cannot be made; later, for one that fails.
    """
    return [_callback(name) for name in session.run.extensions.callbacks]


def hears_of_saves(callback: Guarded) -> bool:
    """Whether a callback does something when a checkpoint is saved."""
    own = getattr(type(callback.callback), "on_save", TrainerCallback.on_save)
    return own is not TrainerCallback.on_save


def _callback(name: str) -> Guarded:
    def fail(error: Exception) -> None:
        log.error("The callback %s failed.", name, exc_info=error)
        raise failed("callbacks", name, "failed", error) from error

    factory = load_extension("callbacks", name)
    try:
        return Guarded(factory(), fail)
    except Exception as error:
        log.exception("The callback %s could not be made.", name)
        raise failed("callbacks", name, "could not be made", error) from error


class Metrics:
    """The metrics that a run names, for its held-out rows."""

    def __init__(self, session: Session, tokenizer: Any, rows: Sequence[TokenRow] | None) -> None:
        names = session.run.extensions.metrics if rows is not None else []
        self._functions = {name: load_extension("metrics", name) for name in names}
        self._processes = session.processes
        self._seed = session.run.training.seed
        self._reporter = session.reporter
        self._rest = {"tokenizer": tokenizer, "rows": rows, "device": session.processes.device()}

    def measure(self, model: Any) -> dict[str, float]:
        """Call each in every process; the numbers of the first process count.

        Training is not disturbed: the model's mode and torch's random numbers are put back.

        Raises:
            RunError: InvalidConfiguration, for a function that fails or gives something else than numbers.
        """
        found: dict[str, float] = {}
        training = model.training
        for name, function in self._functions.items():
            # Not in the phase of training, in which a function of some minutes would be taken for a hang.
            self._reporter.phase(ActiveReason.EVALUATING, f"measuring {name}")
            model.eval()
            try:
                with torch.inference_mode(), torch.random.fork_rng():
                    torch.manual_seed(self._seed)
                    found |= _numbers(function(model=model, **self._rest))
            except Exception as error:
                log.exception("The metric %s failed.", name)
                raise failed("metrics", name, "failed", error) from error
            finally:
                model.train(training)
        return {name: agreed(value, self._processes) for name, value in sorted(found.items())}


def agreed(value: float, processes: Processes) -> float:
    """What the first process says."""
    return processes.sum(value if processes.first else 0.0)


def _numbers(result: Mapping[str, float]) -> dict[str, float]:
    """What a metric gave, checked."""
    numbers = {}
    for name, value in result.items():
        if not _NAME.fullmatch(name) or name in _OURS:
            raise ValueError(f"{name!r} is no name for a metric: a-z, 0-9 and _, and neither of {', '.join(_OURS)}")
        numbers[name] = float(value)
        if not math.isfinite(numbers[name]):
            raise ValueError(f"{name} is {numbers[name]}")
    return numbers


def make_model(name: str, folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """Load the base model by the factory that the run names.

    Raises:
        RunError: InvalidConfiguration, where it fails or gives something else than a module.
    """
    factory = load_extension("model", name)
    try:
        model = factory(folder=folder, dtype=dtype, device=device)
    except Exception as error:
        log.exception("The model factory %s failed.", name)
        raise failed("model", name, "failed", error) from error
    if not isinstance(model, torch.nn.Module):
        message = f"extensions.model: {name} gave a {type(model).__name__} instead of a torch.nn.Module"
        raise RunError(Reason.INVALID_CONFIGURATION, message, "docs/extensions.md says what is expected.")
    return model
