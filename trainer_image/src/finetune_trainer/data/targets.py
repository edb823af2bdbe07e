"""Rows of other tasks than CausalLM: what goes in, and what the model is to give for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_trainer.data.tokens import IGNORED, Ids, Labelled, Segments


@dataclass(frozen=True)
class Targeted:
    """A row before it is written."""

    input_ids: Ids
    """Shape [tokens], with the special tokens that the model wants around a text."""
    targets: Ids
    """What the row is to give; shape and meaning are the task's. IGNORED where nothing is."""
    segments: Segments
    """Shape [tokens]: 1 for tokens of a second text."""
    shorten: Callable[[int], "Targeted"]
    """The row with at most so many tokens, and still with the special tokens at its end."""
    details: bytes = b""
    """What an evaluation wants to know beside the tokens."""
    written: bool = False
    """Whether the targets are tokens that the model writes, and count as such."""
    stops_at_all: bool = True
    """Only what is written has an end."""
    windows: Callable[[int], Sequence["Targeted"]] | None = None
    """Several rows of at most so many tokens that stand for this one, where the task has such; none where it cannot."""

    def __len__(self) -> int:
        """The number of tokens, as training.maxLength counts them: of the longer of the two, where two are texts."""
        return max(len(self.input_ids), len(self.targets)) if self.written else len(self.input_ids)

    @property
    def items(self) -> int:
        """The number of labels, or of tokens to write, that give a loss."""
        return int((self.targets != IGNORED).sum())

    @property
    def largest_token(self) -> int:
        """The largest token id."""
        return int(max(self.input_ids.max(), self.targets.max() if self.written else 0))

    @property
    def identity(self) -> tuple[bytes, bytes]:
        """What two rows that are trained alike have in common."""
        return self.input_ids.tobytes(), self.targets.tobytes()

    def loses_end(self, length: int) -> bool:
        """Whether what is to be written is cut at `length`."""
        return self.written and len(self.targets) > length

    def cut(self, length: int) -> "Targeted":
        """The row with at most so many tokens."""
        return self.shorten(length)


Row = Labelled | Targeted


def ids_of(encoding_ids: list[int]) -> Ids:
    """Token ids as they are stored."""
    return np.asarray(encoding_ids, dtype=np.int32)
