"""One training process, as torchrun starts it: `-m finetune_trainer.worker --run-file F --work-dir D`.

Writes its progress and always an outcome into the work folder, and exits with the outcome's code. PID 1 does the rest.
"""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.names import Stage
from finetune_api.outcome import ExitCode, Outcome, Reason
from finetune_api.run import RunFile
from finetune_trainer.sharding.strategy import hide_deepspeed, strategy_of
from finetune_trainer.supervisor.processes import die_with_parent, write_stacks_on_request
from finetune_trainer.training.stop import Stopped, StopSwitch
from finetune_trainer.workdir import WorkDir, spoken

if TYPE_CHECKING:
    from finetune_trainer.training.session import Session

log = logging.getLogger("finetune_trainer.worker")  # the module itself is called __main__ here


def main(arguments: list[str] | None = None) -> int:
    """Run, and return the exit code."""
    parser = argparse.ArgumentParser(prog="finetune_trainer.worker", description="Run one training process.")
    parser.add_argument("--run-file", type=Path, required=True, help="the run file, already checked")
    parser.add_argument("--work-dir", type=Path, required=True, help="scratch folder, shared with PID 1")
    options = parser.parse_args(arguments)
    stop = StopSwitch()
    stop.install()
    run, work = RunFile.from_json(options.run_file.read_bytes()), WorkDir(options.work_dir)
    first, leads = os.environ.get("RANK", "0") == "0", os.environ.get("LOCAL_RANK", "0") == "0"
    if leads:
        work.outcome_file.unlink(missing_ok=True)
    _prepare_libraries(run)
    outcome = _run(run, work, stop)
    if outcome.reason is Reason.PUBLISHED and not first:
        outcome = outcome.model_copy(update={"reason": Reason.TOOK_PART})
    # The first process to fail knows the reason; its peers only see it vanish. A good end, and a stop, is the first
    # one's to tell: only it has the artifact, and only it saved. Each node has its own disk, and its own first one.
    failed = outcome.reason.exit_code not in (ExitCode.SUCCESS, ExitCode.PREEMPTED)
    if (leads or failed) and not work.outcome_file.exists():
        _tell(work, outcome)
    log.info("%s: %s: %s", run.name, outcome.reason, outcome.message)
    return int(outcome.reason.exit_code)


def _tell(work: WorkDir, outcome: Outcome) -> None:
    """Write the outcome; where the disk takes nothing any more, say it aloud: PID 1 listens."""
    try:
        work.write_outcome(outcome)
    except OSError:
        sys.stderr.write(f"\n{spoken(outcome)}\n")


def _prepare_libraries(run: RunFile) -> None:
    """Set what torch, transformers and the hub client read when they are imported."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    if strategy_of(run).is_zero:
        os.environ["DS_ACCELERATOR"] = "cuda" if run.gpus else "cpu"  # DeepSpeed would guess, with a warning
    else:
        hide_deepspeed()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("finetune_trainer").setLevel(logging.INFO)
    # bitsandbytes looks for an optional CPU kernel of the hub, and says at length that it is not there.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


def _run(run: RunFile, work: WorkDir, stop: StopSwitch) -> Outcome:
    """Run to an outcome, whatever happens."""
    session: Session | None = None
    try:
        log.info("%s: starting", run.name)
        if run.stage is Stage.PREPARE:
            from finetune_trainer.preparation.stage import execute as prepare  # noqa: PLC0415

            return prepare(run, work, stop)
        # torch takes seconds to import: signals and the environment come first.
        from finetune_trainer.training.start import start  # noqa: PLC0415

        session = start(run, work, stop)
        from finetune_trainer.training.run import execute  # noqa: PLC0415

        stop.check()
        return execute(session)
    except Stopped:
        return _stopped(session)
    except Exception as error:
        from finetune_trainer.training.failures import explain  # noqa: PLC0415

        failure = explain(error, run, work.root)
        if failure.reason is Reason.INTERNAL_ERROR:
            log.exception("%s: unexpected error", run.name)
        return failure.outcome(session.reporter.progress.step if session else 0)


def _stopped(session: "Session | None") -> Outcome:
    """How far it came; PID 1 adds what of it is in storage."""
    if session is None or not session.reporter.saved_step:
        return Outcome(reason=Reason.PREEMPTED, message="stopped before the first checkpoint")
    reporter = session.reporter
    session.processes.barrier()  # torchrun ends all others when the first one leaves, and rank 0 may still save
    message = f"stopped at step {reporter.progress.step}"
    return Outcome(reason=Reason.PREEMPTED, message=message, step=reporter.saved_step)


if __name__ == "__main__":
    die_with_parent()  # nothing trains on when PID 1 is gone
    write_stacks_on_request()
    sys.exit(main())
