"""Reads the run file, and refuses a wrong one before anything heavy is imported."""

from pathlib import Path

from pydantic import ValidationError

from finetune_api.load import describe
from finetune_api.outcome import Reason
from finetune_api.run import RunFile
from finetune_trainer.errors import RunError

_SHOWN = 5


def read(path: Path) -> RunFile:
    """Return the checked run file.

    Raises:
        RunError: InvalidConfiguration, naming each field, its value and what it should be.
    """
    try:
        return RunFile.from_json(path.read_bytes())
    except OSError as error:
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"the run file {path} cannot be read: {error.strerror}",
            "Name the run file with --run-file; the operator and `finetune run` write it.",
        ) from error
    except ValidationError as error:
        problems = [f"{field or 'the run file'}: {sentence}" for field, sentence in describe(error)]
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise RunError(
            Reason.INVALID_CONFIGURATION,
            f"the run file {path} is refused: {'; '.join(problems[:_SHOWN])}{more}",
            "Correct the field in the FineTuneJob. If the version is unknown, use the trainer image of this operator.",
        ) from error
