"""From examples of one format to labelled tokens: through the chat template, as plain text, or as they are."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import DataFormat, TrainOn
from finetune_trainer.data.findings import RowError
from finetune_trainer.data.formats import CHATS
from finetune_trainer.data.labels import Chat, render_chat, renderer
from finetune_trainer.data.rows import Conversation, Text, Tokens
from finetune_trainer.data.tokens import Labelled, Labeller
from finetune_trainer.errors import RunError

Rendered = Chat | Text | Tokens


class Encoder:
    """Encodes the rows of one source.

    Raises:
        RunError: InvalidConfiguration: the tokenizer lacks what the format needs.
    """

    labels = None

    def __init__(
        self, format_: DataFormat, train_on: TrainOn, tokenizer: Any, variables: Mapping[str, str] | None = None
    ) -> None:
        if format_ in CHATS and not tokenizer.chat_template:
            raise RunError(
                Reason.INVALID_CONFIGURATION,
                f"the model has no chat template, and the rows are conversations ({format_})",
                "Use an instruction-tuned model, or put a chat_template.jinja beside its tokenizer.json.",
            )
        if format_ is DataFormat.TEXT and tokenizer.eos_token_id is None:
            raise RunError(
                Reason.INVALID_CONFIGURATION,
                "the model's tokenizer has no eos_token, so nothing can mark the end of a text",
                "Name one in its tokenizer_config.json.",
            )
        self._format = format_
        self._train_on = train_on
        self._render = renderer(tokenizer, variables)
        self._labeller = Labeller(tokenizer)

    def render(self, example: Conversation | Text | Tokens) -> Rendered:
        """Do what can be done for one row alone.

        Raises:
            RowError: The chat template refuses it, or what to train cannot be told.
        """
        return render_chat(example, self._render, self._train_on) if isinstance(example, Conversation) else example

    def tokenize(self, rows: Sequence[Rendered]) -> list[Any]:
        """Tokenise rows together, without Python's lock; what is tokenised already gives nothing."""
        if self._format is DataFormat.TOKENIZED:
            return []
        texts = [row.text for row in rows if not isinstance(row, Tokens)]
        # A chat template writes all special tokens itself; adding them again would double the BOS.
        return self._labeller.tokenize(texts, begun=self._format is not DataFormat.TEXT)

    def label(self, rows: Sequence[Rendered], encodings: list[Any]) -> list[Labelled | RowError]:
        """Label rows with what `tokenize` made of them; one that cannot be used gives its RowError in its place."""
        if self._format is DataFormat.TOKENIZED:
            return self._labeller.tokens(cast("Sequence[Tokens]", rows))
        if self._format is DataFormat.TEXT:
            return self._labeller.texts(encodings)
        return self._labeller.chats(cast("Sequence[Chat]", rows), encodings)
