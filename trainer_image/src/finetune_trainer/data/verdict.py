"""Say whether what the doctor saw may be trained."""

from collections.abc import Callable

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import InvalidRowPolicy, Overlong
from finetune_trainer.data.doctor import Doctor
from finetune_trainer.data.options import Options
from finetune_trainer.data.source import Source
from finetune_trainer.errors import RunError

Say = Callable[[str], None]


def judge(source: Source, options: Options, doctor: Doctor, say: Say) -> None:
    """Let the rows pass, or not; what is lost without harm is said.

    Raises:
        RunError: InvalidDataset, TooManyInvalidRows or EmptyDataset.
    """
    if doctor.empty.count:
        say(f"{source.name}: {doctor.empty.count} files have no rows, for instance {doctor.empty.first[0].file}")
    if doctor.invalid.count:
        _judge_invalid(source, options, doctor, say)
    too_long = doctor.tally.too_long
    if too_long.count and options.dataset.overlong is Overlong.FAIL:
        raise RunError(
            Reason.INVALID_DATASET,
            f"{too_long.count} of {doctor.seen} rows are too long: {too_long}",
            "Shorten them, raise training.maxLength, or set dataset.overlong: Drop or Truncate (for questions, Split).",
        )
    if not doctor.tally.rows:
        raise RunError(
            Reason.EMPTY_DATASET,
            f"no row of {source.name} is left to train: {doctor.tally.emptiness(doctor.seen)}",
            "Raise training.maxLength or shorten the rows.",
        )
    if options.trains and doctor.tally.endless.count == doctor.tally.rows:
        raise RunError(
            Reason.INVALID_DATASET,
            f"in none of the {doctor.tally.rows} rows of {source.name} is a token trained that ends a turn (the "
            "tokenizer's eos_token, or another special token at the turn's end): the model would never stop",
            "Raise training.maxLength where every row is cut there; else use a chat template that ends the assistant's "
            "turn with such a token.",
        )


def _judge_invalid(source: Source, options: Options, doctor: Doctor, say: Say) -> None:
    policy, limit = options.dataset.invalid_rows.policy, options.dataset.invalid_rows.max_percent
    sentence = f"{doctor.invalid.count} of {doctor.seen} rows cannot be used: {doctor.invalid}"
    if policy is InvalidRowPolicy.FAIL or limit is None:
        raise RunError(
            Reason.INVALID_DATASET,
            sentence,
            "Correct or remove these lines (dataset-report.json names more of them) and create the job again; nothing "
            "was trained.",
        )
    if 100 * doctor.invalid.count > limit * doctor.seen:
        raise RunError(
            Reason.TOO_MANY_INVALID_ROWS,
            f"more than {limit} % of {source.name} (dataset.invalidRows.maxPercent): {sentence}",
            "Correct the rows, which are all in quarantine.jsonl, or raise maxPercent.",
        )
    say(f"{source.name}: skipped, and written to quarantine.jsonl: {sentence}")
