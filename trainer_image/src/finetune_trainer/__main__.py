"""PID 1 of the trainer: checks the run file, supervises the worker, and says how the run ended.

    python -m finetune_trainer --run-file run.json --work-dir /tmp/run

Imports the standard library and pydantic at start, boto3 after the run file is checked, and torch never.
"""

import argparse
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from finetune_api import names
from finetune_api.outcome import ExitCode, Outcome, Reason
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import TrackerType
from finetune_trainer.disk import explain_disk
from finetune_trainer.errors import RunError
from finetune_trainer.publish import CheckpointStore, Outbox, abort_leftovers, check_writable
from finetune_trainer.storage import open_store
from finetune_trainer.supervisor import environment, launch, runfile
from finetune_trainer.supervisor.gang import Gang
from finetune_trainer.supervisor.hang import Watch
from finetune_trainer.supervisor.mailbox import Mailbox
from finetune_trainer.supervisor.memory import Memory
from finetune_trainer.supervisor.mirror import Mirror
from finetune_trainer.supervisor.place import Place
from finetune_trainer.supervisor.story import Story
from finetune_trainer.supervisor.supervise import supervise
from finetune_trainer.supervisor.uploads import Uploads
from finetune_trainer.supervisor.verdict import settled, verdict
from finetune_trainer.workdir import WorkDir

_log = logging.getLogger("finetune_trainer")


def main(argv: list[str] | None = None, command: list[str] | None = None) -> int:
    """Run one attempt and return the exit code.

    Args:
        argv: The command line; that of this process when None.
        command: Runs this instead of the worker.
    """
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("botocore").setLevel(logging.WARNING)
    options = _parser().parse_args(argv)
    mailbox = Mailbox()
    try:
        outcome = _run(options, mailbox, command)
    except RunError as error:
        outcome = error.outcome()
    except Exception as error:  # whatever it is, it must end as a reason
        outcome = _unexpected(error, options.work_dir.resolve())
    _say_end(outcome, options.termination_log)
    return outcome.reason.exit_code


def _run(options: argparse.Namespace, mailbox: Mailbox, command: list[str] | None) -> Outcome:
    run = runfile.read(options.run_file)
    place = Place.of(run, os.environ)
    gang = Gang(place, f"{run.uid}/{run.attempt}", lambda: mailbox.post(signal.SIGTERM))
    try:
        outcome = _attempt(run, place, gang, options, mailbox, command)
    except RunError as error:
        outcome = error.outcome()
    gang.farewell(outcome)
    return outcome


def _attempt(
    run: RunFile, place: Place, gang: Gang, options: argparse.Namespace, mailbox: Mailbox, command: list[str] | None
) -> Outcome:
    """Run this node's part. The first node is alone with the bucket's checkpoints, and sees whether the run moves."""
    work = WorkDir(options.work_dir.resolve())
    uploads = _open_output(run, work) if place.first else None
    mirror = _mirror(run, work) if place.first else None
    worker_environment = environment.of_worker(run, work.root, os.environ) | launch.rank_of(run.processes, place)
    for stale in (work.outcome_file, work.progress_file):
        stale.unlink(missing_ok=True)
    _serve(options.port, work)
    memory = Memory.of_this_process()
    kills_before = memory.kills()
    command = command or launch.command(run.processes, options.run_file.resolve(), work.root, place)
    story, watch = Story(work, _log.info), Watch(work, run.training.hang_timeout_seconds)

    def on_tick() -> str:
        if not place.first:  # only the first node hears how far the run is
            return ""
        story.tick()
        return "" if run.debug.debugpy else watch.look()  # at a breakpoint nothing moves

    gang.gather(mailbox.get)
    grace = options.stop_grace_seconds
    ending = supervise(command, worker_environment, mailbox, grace, on_tick, gang.say_stop, gang.left_alone)
    outcome = gang.judged(verdict(ending, work, memory.kills() - kills_before, memory.limit()))
    if uploads is None:
        return outcome
    if outcome.reason in (Reason.PUBLISHED, Reason.MERGE_REFUSED):
        _write_end(outcome, options.termination_log)  # before anything can keep this process from it
        gang.farewell(outcome)
        uploads.discard()
    else:
        outcome = settled(outcome, uploads.finish(mailbox.get, ending.deadline, grace))
    if mirror:
        mirror.finish(hurry=ending.deadline is not None)
    return outcome


def _open_output(run: RunFile, work: WorkDir) -> Uploads:
    """Find a wrong key or a missing bucket now, not after hours of training; then wait for checkpoints."""
    _log.info(
        "Attempt %d of %s/%s: checking that %s can be written.", run.attempt, run.namespace, run.name, run.output.uri
    )
    store = open_store(run.output.uri, run.storage)
    check_writable(store, run.uid)
    abort_leftovers(store, run.uid, _log.info)
    checkpoints = CheckpointStore(store, run.uid, _log.info)
    uploads = Uploads(Outbox(work.outbox), checkpoints, run.training.checkpoints.keep)
    uploads.start()
    return uploads


def _mirror(run: RunFile, work: WorkDir) -> Mirror | None:
    """TensorBoard's files go to storage while they are written, where the run wants them."""
    if not any(tracker.type is TrackerType.TENSORBOARD for tracker in run.training.trackers):
        return None
    mirror = Mirror(work.tensorboard, open_store(run.output.uri, run.storage), f".finetune/{run.uid}/tensorboard/")
    mirror.start()
    return mirror


def _serve(port: int, work: WorkDir) -> None:
    if port:
        from finetune_trainer.supervisor import serve  # noqa: PLC0415 - http.server and prometheus_client are heavy

        serve.start(port, work)


def _unexpected(error: Exception, folder: Path) -> Outcome:
    if disk := explain_disk(error, folder):
        return disk.outcome()
    traceback.print_exc()
    return Outcome(reason=Reason.INTERNAL_ERROR, message=f"{type(error).__name__}: {error}")


def _say_end(outcome: Outcome, termination_log: Path) -> None:
    _write_end(outcome, termination_log)
    hint = f" {outcome.hint}" if outcome.hint else ""
    _log.info("%s: %s.%s", outcome.reason.value, outcome.message.rstrip("."), hint)


def _write_end(outcome: Outcome, termination_log: Path) -> None:
    if termination_log.exists() or termination_log != Path(names.TERMINATION_LOG):  # outside a pod there is none
        try:
            termination_log.write_text(outcome.to_termination_message())
        except OSError as error:
            _log.warning("The termination message cannot be written to %s: %s.", termination_log, error.strerror)


def leave(code: int) -> NoReturn:
    """End this process now: a thread that waits for storage shall not hold up the end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _parser() -> argparse.ArgumentParser:
    codes = ", ".join(f"{code.value} {code.name.lower().replace('_', ' ')}" for code in ExitCode)
    parser = argparse.ArgumentParser(
        prog="python -m finetune_trainer",
        description="Runs one attempt of a FineTuneJob: download, train, publish a verified adapter.",
        epilog=f"Credentials come from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, HF_TOKEN). "
        f"SIGTERM saves a checkpoint and ends with 75. Exit codes: {codes}.",
    )
    add = parser.add_argument
    add("--run-file", type=Path, default=Path(names.RUN_FILE_PATH), help="what to do (default: %(default)s)")
    add("--work-dir", type=Path, default=Path(names.WORK_DIR), help="scratch folder (default: %(default)s)")
    add(
        "--termination-log",
        type=Path,
        default=Path(names.TERMINATION_LOG),
        help="where the outcome is written as JSON (default: %(default)s, if it exists)",
    )
    add(
        "--port",
        type=int,
        default=names.TRAINER_PORT,
        help="serve /progress, /metrics and /healthz here; 0 serves nothing (default: %(default)s)",
    )
    add(
        "--stop-grace-seconds",
        type=float,
        default=50.0,
        help="from SIGTERM to SIGKILL of the worker; keep it below the pod's grace period (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    leave(main())
