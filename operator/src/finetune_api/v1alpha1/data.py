"""The base model and the rows to learn from."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.base import LIST_ATOMIC, DataURI, Decimal, Object, ObjectName, Rule, SourceURI


class Adapter(Object):
    """A published adapter."""

    uri: SourceURI
    """Prefix of adapter_config.json and adapter_model.safetensors: s3://, hf:// or pvc://, as for the model."""


class Model(Object):
    """The base model."""

    uri: SourceURI
    """Where the model's safetensors, config and tokenizer are: s3://bucket/prefix, hf://owner/name or pvc://claim/path."""
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]+$", max_length=128)] | None = None
    """Commit, tag or branch of an hf:// model. A full commit makes the run repeatable."""
    secret_name: ObjectName | None = None
    """Secret whose key HF_TOKEN opens a gated hf:// model."""
    adapter: Adapter | None = None
    """Train this adapter on instead of a fresh one. Its own rank, alpha, modules and so on hold; method must not
    contradict them."""


_WEIGHT = Rule(
    cel="double(self.weight) > 0.0 && double(self.weight) <= 100.0",
    holds=lambda source: 0 < float(source.weight) <= 100,
    message='weight must be above 0 and at most 100, for instance "0.5"',
    field="weight",
)


class MoreRows(Object):
    """More files of rows, of the same format."""

    rules = (_WEIGHT,)
    uri: DataURI
    """A file, all files below a prefix, or those that a pattern names."""
    weight: Decimal = "1"
    """How often each of these rows is seen in an epoch."""


class DataSource(Object):
    """One or more files of rows."""

    rules = (_WEIGHT,)
    uri: DataURI
    """A file (s3://bucket/rows.jsonl), all files below a prefix that ends in / (pvc://claim/rows/), or those that a
    pattern names (hf://datasets/owner/name/part-*.jsonl.gz). Files are read in the order of their names."""
    weight: Decimal = "1"
    """How often each row is seen in an epoch: "2" is twice; "0.5" is half of the rows, chosen by training.seed."""
    more: Annotated[list[MoreRows], Field(max_length=31, json_schema_extra=LIST_ATOMIC)] = []
    """More rows of the same format, each source with a weight of its own."""

    @property
    def uris(self) -> list[str]:
        """All of them, in the order in which they are read."""
        return [self.uri, *(more.uri for more in self.more)]

    @property
    def weights(self) -> list[float]:
        """Of each URI."""
        return [float(self.weight), *(float(more.weight) for more in self.more)]


class DataFormat(StrEnum):
    """What a row looks like."""

    AUTO = "Auto"
    MESSAGES = "Messages"
    PROMPT_COMPLETION = "PromptCompletion"
    INSTRUCTION = "Instruction"
    SHARE_GPT = "ShareGPT"
    TEXT = "Text"
    TOKENIZED = "Tokenized"
    TEXT_LABEL = "TextLabel"
    TOKENS_TAGS = "TokensTags"
    SOURCE_TARGET = "SourceTarget"
    QUESTION_ANSWERS = "QuestionAnswers"


class TrainOn(StrEnum):
    """Which part of a row is trained."""

    ASSISTANT = "Assistant"
    LAST_ASSISTANT = "LastAssistant"
    ALL = "All"


class Overlong(StrEnum):
    """What happens to a row that is longer than `training.maxLength`."""

    DROP = "Drop"
    TRUNCATE = "Truncate"
    SPLIT = "Split"
    FAIL = "Fail"


class InvalidRowPolicy(StrEnum):
    """What happens to a row that cannot be used."""

    FAIL = "Fail"
    SKIP = "Skip"


class Role(StrEnum):
    """Who speaks in a message, as chat templates name them."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


Column = Annotated[str, Field(min_length=1, max_length=128)]


class Columns(Object):
    """The file's own names of the columns that a format reads; unset ones have the name given here."""

    messages: Column | None = None
    """Of Messages: the list of messages."""
    tools: Column | None = None
    """Of all chats: the tools that the model may call, as JSON schemas."""
    prompt: Column | None = None
    """Of PromptCompletion: a text, or a list of messages."""
    completion: Column | None = None
    """Of PromptCompletion: a text, or a list of messages."""
    instruction: Column | None = None
    """Of Instruction: what to do."""
    input: Column | None = None
    """Of Instruction: what to do it with; may be missing or empty."""
    output: Column | None = None
    """Of Instruction: the answer."""
    system: Column | None = None
    """Of Instruction and ShareGPT: the system message; may be missing or empty."""
    conversations: Column | None = None
    """Of ShareGPT: the list of turns."""
    text: Column | None = None
    """Of Text and TextLabel: the text."""
    text_pair: Column | None = None
    """Of TextLabel: a second text; may be missing."""
    label: Column | None = None
    """Of TextLabel: the label."""
    tokens: Column | None = None
    """Of TokensTags: the list of words."""
    tags: Column | None = None
    """Of TokensTags: one label a word."""
    source: Column | None = None
    """Of SourceTarget: what the encoder reads."""
    target: Column | None = None
    """Of SourceTarget: what the decoder learns to write."""
    question: Column | None = None
    """Of QuestionAnswers: the question."""
    context: Column | None = None
    """Of QuestionAnswers: the text that the answer stands in."""
    answers: Column | None = None
    """Of QuestionAnswers: an object with lists text and answer_start, as in SQuAD."""
    input_ids: Column | None = None
    """Of Tokenized: the token ids; input_ids in the file unless named here."""
    labels: Column | None = None
    """Of Tokenized: each token's own id where it is trained and -100 elsewhere; may be missing."""


class InvalidRows(Object):
    """What happens to rows that cannot be used."""

    rules = (
        Rule(
            cel="self.policy == 'Skip' || !has(self.maxPercent)",
            holds=lambda r: r.policy is InvalidRowPolicy.SKIP or r.max_percent is None,
            message="dataset.invalidRows.maxPercent goes with policy Skip only; remove it or set policy: Skip",
            field="maxPercent",
        ),
        Rule(
            cel="self.policy != 'Skip' || has(self.maxPercent)",
            holds=lambda r: r.policy is not InvalidRowPolicy.SKIP or r.max_percent is not None,
            message="dataset.invalidRows.policy Skip needs maxPercent: how many rows may be lost, for instance 1",
            field="maxPercent",
        ),
    )
    policy: Annotated[InvalidRowPolicy, Field(strict=False)] = InvalidRowPolicy.FAIL
    """Fail: one such row ends the run. Skip: they are left out, up to maxPercent, and written to quarantine.jsonl."""
    max_percent: Annotated[int, Field(ge=1, le=100)] | None = None
    """With Skip: more than this share of the rows of one source ends the run with TooManyInvalidRows."""


_OURS = (
    "conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt",
    "continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs",
)  # fmt: skip
"""Arguments of `apply_chat_template` that the trainer gives itself."""


class Dataset(Object):
    """The rows to learn from, and how they are read."""

    rules = (
        Rule(
            cel=f"self.chatTemplateKwargs.all(name, !(name in {list(_OURS)}))",
            holds=lambda d: not set(_OURS) & d.chat_template_kwargs.keys(),
            message="dataset.chatTemplateKwargs is for the template's own variables, for instance enable_thinking; "
            "messages, tools, add_generation_prompt and the other arguments of apply_chat_template are the trainer's",
            field="chatTemplateKwargs",
        ),
        Rule(
            cel="!has(self.evaluation) || self.evaluation.weight == '1' && "
            "self.evaluation.more.all(source, source.weight == '1')",
            holds=lambda d: d.evaluation is None or all(s.weight == "1" for s in (d.evaluation, *d.evaluation.more)),
            message="dataset.evaluation has no weights: every held-out row is measured once; remove them",
            field="evaluation",
        ),
        Rule(
            cel="self.trainOn != 'LastAssistant' || !(self.format in ['Text', 'Tokenized'])",
            holds=lambda d: (
                d.train_on is not TrainOn.LAST_ASSISTANT or d.format not in (DataFormat.TEXT, DataFormat.TOKENIZED)
            ),
            message="dataset.trainOn LastAssistant needs a format with assistant turns; Text and Tokenized have none",
            field="trainOn",
        ),
    )
    train: DataSource
    """Rows to train on."""
    evaluation: DataSource | None = None
    """Held-out rows; their loss is measured before and after training."""
    format: Annotated[DataFormat, Field(strict=False)] = DataFormat.AUTO
    """What a row looks like. Auto decides by the columns of the first rows, and says in the log what it found."""
    columns: Columns = Columns()
    """The file's own names of the columns that the format reads."""
    roles: Annotated[dict[str, Annotated[Role, Field(strict=False)]], Field(max_length=16)] = {}
    """The file's own names of roles, each with the role that it means."""
    chat_template_kwargs: Annotated[dict[str, Annotated[str, Field(max_length=256)]], Field(max_length=16)] = {}
    """Variables for the model's chat template, values as text: enable_thinking: "false". true, false and numbers are
    taken as such. Serve the model with the same (vLLM calls them chat_template_kwargs, too)."""
    train_on: Annotated[TrainOn, Field(strict=False)] = TrainOn.ASSISTANT
    """Assistant: every assistant turn, or the completion's. LastAssistant: the last one only. All: every token."""
    overlong: Annotated[Overlong, Field(strict=False)] = Overlong.DROP
    """Rows longer than training.maxLength: Drop them, Truncate their end, Split the context of a question into windows
    (task.docStride), or Fail the run. All are counted."""
    invalid_rows: InvalidRows = InvalidRows()
    """What happens to rows that cannot be used."""

    @property
    def uris(self) -> list[str]:
        """Of the rows to train on, then of the held-out ones."""
        return [*self.train.uris, *(self.evaluation.uris if self.evaluation else [])]


def source_uris(model: Model, dataset: Dataset) -> list[str]:
    """Everything that a run reads: the model, the adapter it trains on, the rows."""
    return [model.uri, *([model.adapter.uri] if model.adapter else []), *dataset.uris]
