"""What a job asks of its image beyond the trainer: entry points, tracker packages, a debugger.

Entry points are loaded by name only: what is installed and not named never runs.
"""

from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import Any

from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Extensions, TrackerType
from finetune_trainer.errors import RunError

GROUPS = {"callbacks": "finetune.callbacks", "metrics": "finetune.metrics", "model": "finetune.models"}
"""By field of `extensions`."""
PACKAGES = {
    TrackerType.TENSORBOARD: ("tensorboardX", "tensorboard"),
    TrackerType.MLFLOW: ("mlflow",),
    TrackerType.WANDB: ("wandb",),
    TrackerType.TRACKIO: ("trackio",),
}
"""One of them is enough."""
_OWN_IMAGE = "Use an image that has it: spec.image, docs/extensions.md."


def check_image(run: RunFile) -> None:
    """Look whether all that the run names is installed, without loading any of it.

    Raises:
        RunError: InvalidConfiguration, with what is installed.
    """
    for field, name in _named(run.extensions):
        _find(field, name)
    for tracker in run.training.trackers:
        packages = PACKAGES[tracker.type]
        if not any(find_spec(package) for package in packages):
            message = f"training.trackers: {tracker.type} needs the package {packages[0]}, which this image has not"
            raise RunError(Reason.INVALID_CONFIGURATION, message, _OWN_IMAGE)
    if run.debug.debugpy and not find_spec("debugpy"):
        message = "debug.debugpy: the package debugpy is not in this image"
        raise RunError(Reason.INVALID_CONFIGURATION, message, _OWN_IMAGE)


def check_extensions(extensions: Extensions) -> None:
    """Load all that is named, for errors that only loading shows.

    Raises:
        RunError: InvalidConfiguration.
    """
    for field, name in _named(extensions):
        load_extension(field, name)


def load_extension(field: str, name: str) -> Any:
    """The object that an entry point of the field's group stands for.

    Raises:
        RunError: InvalidConfiguration, where there is none, or its code fails.
    """
    found = _find(field, name)
    try:
        loaded = found.load()
    except Exception as error:
        raise failed(field, name, "could not be loaded", error) from error
    if not callable(loaded):
        message = f"extensions.{field}: {name} ({found.value}) is a {type(loaded).__name__}, which cannot be called"
        raise RunError(Reason.INVALID_CONFIGURATION, message, "docs/extensions.md says what each group expects.")
    return loaded


def failed(field: str, name: str, what: str, error: Exception) -> RunError:
    """The error of code that is not ours: the same code would fail again."""
    message = f"extensions.{field}: {name} {what}: {type(error).__name__}: {' '.join(str(error).split())[:600]}"
    return RunError(Reason.INVALID_CONFIGURATION, message, "It is code of the image: the log has its traceback.")


def _named(extensions: Extensions) -> list[tuple[str, str]]:
    """Field and name of each."""
    names = [("callbacks", name) for name in extensions.callbacks] + [("metrics", name) for name in extensions.metrics]
    return [*names, ("model", extensions.model)] if extensions.model else names


def _find(field: str, name: str) -> EntryPoint:
    installed = entry_points(group=GROUPS[field])
    found = {point.value: point for point in installed if point.name == name}
    if len(found) > 1:
        message = f"extensions.{field}: {name} is installed more than once: {', '.join(sorted(found))}"
        raise RunError(Reason.INVALID_CONFIGURATION, message, "Leave one of these packages in the image.")
    if not found:
        message = f"extensions.{field}: no entry point {name} of the group {GROUPS[field]} is installed"
        there = ", ".join(sorted(installed.names))
        hint = f"These are installed: {there}." if there else f"None is installed. {_OWN_IMAGE}"
        raise RunError(Reason.INVALID_CONFIGURATION, message, hint)
    return next(iter(found.values()))
