"""A whole file of rows, tokenised, counted and checked."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from finetune_api.outcome import Reason
from finetune_trainer.data.findings import Findings, RowError
from finetune_trainer.data.labels import Chat, Render, render_chat
from finetune_trainer.data.rows import Message, Row, read_rows
from finetune_trainer.data.tokens import IGNORED, Labeller, TokenRow
from finetune_trainer.errors import RunError

BATCH = 500
"""Rows that are tokenised in one call: enough to keep the tokenizer's threads busy, few enough to report progress."""
SHOWN = 3
"""Rows whose trained spans are written to the log."""


@dataclass(frozen=True)
class Dataset:
    """The rows of one file that fit into the length limit, in the file's order."""

    rows: list[TokenRow]
    dropped: int
    """Rows that were longer than the limit."""

    @property
    def tokens(self) -> int:
        """Tokens of all rows that were kept."""
        return sum(len(row) for row in self.rows)

    @property
    def trained_tokens(self) -> int:
        """Tokens that give a loss."""
        return sum(row.trained for row in self.rows)


def load_dataset(path: Path, tokenizer: Any, max_length: int, say: Callable[[str], None]) -> Dataset:
    """Read, check and tokenise a JSONL file.

    Args:
        path: The file.
        tokenizer: A fast tokenizer with a chat template.
        max_length: Longest row in tokens; longer rows are left out and counted, never cut: a cut answer teaches the
            model to stop in the middle.
        say: Takes sentences about progress.

    Raises:
        RunError: InvalidDataset (file:line) or EmptyDataset.
    """
    rows = read_rows(path)
    tokenized = _tokenize(path.name, rows, tokenizer, say)
    kept = [row for row in tokenized if len(row) <= max_length]
    longest = max(len(row) for row in tokenized)
    if not kept:
        raise RunError(
            Reason.EMPTY_DATASET,
            f"all {len(rows)} rows of {path.name} are longer than training.maxLength {max_length}; the longest has "
            f"{longest} tokens, the shortest {min(len(row) for row in tokenized)}",
            "Raise training.maxLength or shorten the rows.",
        )
    dataset = Dataset(kept, len(tokenized) - len(kept))
    say(
        f"{path.name}: {len(kept)} rows, {dataset.tokens} tokens, {dataset.trained_tokens} of them trained; longest "
        f"row {longest} tokens; {dataset.dropped} rows left out because they are longer than {max_length}"
    )
    return dataset


def show_trained(rows: Sequence[TokenRow], tokenizer: Any) -> Iterator[str]:
    """Render the first rows as text with the trained parts between >>> and <<<, for a person to check."""
    for row in rows[:SHOWN]:
        parts = []
        for trained, group in groupby(zip(row.input_ids, row.labels, strict=True), key=lambda pair: pair[1] != IGNORED):
            text = tokenizer.decode([int(token) for token, _ in group], clean_up_tokenization_spaces=False)
            parts.append(f">>>{text}<<<" if trained else text)
        yield repr("".join(parts))


def renderer(tokenizer: Any) -> Render:
    """The model's own chat template as a function."""

    def render(messages: Sequence[Message], generation_prompt: bool) -> str:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation_prompt, continue_final_message=False
        )
        return str(text)

    return render


def _tokenize(file: str, rows: list[Row], tokenizer: Any, say: Callable[[str], None]) -> list[TokenRow]:
    findings = Findings(file)
    labeller = Labeller(tokenizer)
    render = renderer(tokenizer)
    done: list[TokenRow] = []
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        chats: list[Chat] = []
        lines = []
        for row in batch:
            try:
                chats.append(render_chat(row, render))
                lines.append(row.line)
            except RowError as error:
                findings.add(row.line, error)
        for line, result in zip(lines, labeller.tokenize(chats), strict=True):
            if isinstance(result, RowError):
                findings.add(line, result)
            else:
                done.append(result)
        if start % (10 * BATCH) == 0:
            say(f"tokenized {start + len(batch)} of {len(rows)} rows of {file}")
    findings.raise_if_any(len(done))
    return done
