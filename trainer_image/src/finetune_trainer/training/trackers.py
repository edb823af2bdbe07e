"""Trackers: transformers' own integrations, each guarded. One that fails is said once, and never ends a run."""

import logging
import os
from typing import Any

from transformers.integrations import MLflowCallback, TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.utils import ENV_VARS_TRUE_VALUES

from finetune_api.v1alpha1 import Tracker, TrackerType
from finetune_trainer.training.hooks import Guarded
from finetune_trainer.training.session import Session
from finetune_trainer.workdir import WorkDir

log = logging.getLogger(__name__)
_CALLBACKS = {
    TrackerType.TENSORBOARD: TensorBoardCallback,
    TrackerType.MLFLOW: MLflowCallback,
    TrackerType.WANDB: WandbCallback,
    TrackerType.TRACKIO: TrackioCallback,
}
_SERVERS = {
    TrackerType.MLFLOW: "MLFLOW_TRACKING_URI",
    TrackerType.WANDB: "WANDB_BASE_URL",
    TrackerType.TRACKIO: "TRACKIO_SERVER_URL",
}
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "WANDB_INIT_TIMEOUT": "30",
}
"""Seconds and tries, unless a Secret or the image says otherwise: GPUs wait meanwhile, and MLflow's own are eight tries
of 120 s."""


def trackers(session: Session) -> list[Any]:
    """The callbacks of the run's trackers; only the first process has any."""
    if not session.processes.first:
        return []
    made = [_tracker(tracker, session) for tracker in session.run.training.trackers]
    return [tracker for tracker in made if tracker]


def take_checkpoints(listed: list[Tracker]) -> bool:
    """Whether one of them sends checkpoints away itself; MLflow does where its own variable says so."""
    told = os.environ.get("HF_MLFLOW_LOG_ARTIFACTS", "").upper() in ENV_VARS_TRUE_VALUES
    return told and any(tracker.type is TrackerType.MLFLOW for tracker in listed)


def project(listed: list[Tracker]) -> dict[str, str]:
    """What the Trainer itself wants to know of Trackio."""
    named = [tracker.project for tracker in listed if tracker.type is TrackerType.TRACKIO and tracker.project]
    return {"project": named[0]} if named else {}


def environment(tracker: Tracker, work: WorkDir, uid: str) -> dict[str, str]:
    """What its client reads: where to, and that nothing is written outside of the scratch folder."""
    variables = {
        "TENSORBOARD_LOGGING_DIR": str(work.tensorboard),
        "TRACKIO_DIR": str(work.root / "trackio"),
        "WANDB_DIR": str(work.root),
        "WANDB_LOG_MODEL": "false",
        "WANDB_SILENT": "true",
        "WANDB_RUN_ID": uid,
        "WANDB_RESUME": "allow",
    }
    if tracker.type in _SERVERS and tracker.uri:
        variables[_SERVERS[tracker.type]] = tracker.uri
    return variables | _project(tracker)


def _project(tracker: Tracker) -> dict[str, str]:
    """Trackio's is an argument of the Trainer."""
    if tracker.project and tracker.type is TrackerType.MLFLOW:
        return {"MLFLOW_EXPERIMENT_NAME": tracker.project}
    if tracker.project and tracker.type is TrackerType.WANDB:
        *entity, name = tracker.project.split("/")
        return {"WANDB_PROJECT": name} | ({"WANDB_ENTITY": entity[0]} if entity else {})
    return {}


class _Mute:
    """Says the first error of a tracker; after it the tracker is left alone."""

    def __init__(self, name: str, session: Session) -> None:
        self._name = name
        self._say = session.reporter.say
        self.failed = False

    def __call__(self, error: Exception) -> None:
        if not self.failed:
            self.failed = True
            log.warning("The tracker %s failed.", self._name, exc_info=error)
            self._say(f"the tracker {self._name} failed ({type(error).__name__}) and is left alone from here on")


class _Tracked(Guarded):
    """A tracker that hears nothing any more once it has failed."""

    def __init__(self, callback: Any, mute: _Mute) -> None:
        super().__init__(callback, mute)
        self._mute = mute

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_") and self._mute.failed:
            return lambda *_, **__: None
        return super().__getattr__(name)


def _tracker(tracker: Tracker, session: Session) -> _Tracked | None:
    os.environ |= _PATIENCE | os.environ | environment(tracker, session.work, session.run.uid)
    mute = _Mute(tracker.type, session)
    try:
        return _Tracked(_CALLBACKS[tracker.type](), mute)
    except Exception as error:
        mute(error)
        return None
