"""Cases about `spec.task`: see cases.py."""

from tests.api.jobtext import Case
from tests.api.jobtext import job as _job

HELD_OUT = "train: {uri: s3://datasets/a}, evaluation: {uri: s3://datasets/b}"

ACCEPTED = [
    Case("texts with labels", _job("task: {type: SequenceClassification}")),
    Case(
        "texts with labels in an order",
        _job(
            "task: {type: SequenceClassification, labels: [good, bad]}",
            dataset="train: {uri: s3://datasets/a}, format: TextLabel, columns: {textPair: second, label: l}",
        ),
    ),
    Case("tagged words", _job("task: {type: TokenClassification}\nmethod: {type: Full}")),
    Case(
        "prompts and completions for an encoder and a decoder",
        _job("task: {type: Seq2SeqLM}", dataset="train: {uri: s3://datasets/a}, format: PromptCompletion"),
    ),
    Case("a task by its default name", _job("task: {type: CausalLM}\ntraining: {packing: true}")),
    Case(
        "PiSSA where no head is trained",
        _job("task: {type: Seq2SeqLM}\nmethod: {type: LoRA, initialization: PiSSA}"),
    ),
    Case(
        "questions",
        _job("task: {type: QuestionAnswering}", dataset="train: {uri: s3://datasets/a}, format: QuestionAnswers"),
    ),
]

_SPLIT = "train: {uri: s3://datasets/a}, overlong: Split"
ACCEPTED += [
    Case("contexts in windows", _job("task: {type: QuestionAnswering}", dataset=_SPLIT)),
    Case("windows side by side", _job("task: {type: QuestionAnswering, docStride: 0}", dataset=_SPLIT)),
    Case(
        "windows with much in common",
        _job("task: {type: QuestionAnswering, docStride: 383}\ntraining: {maxLength: 384}", dataset=_SPLIT),
    ),
]

REFUSED = [
    Case("windows of a chat", _job(dataset=_SPLIT), "spec.dataset.overlong"),
    Case("windows of tagged words", _job("task: {type: TokenClassification}", dataset=_SPLIT), "spec.dataset.overlong"),
    Case("a stride without windows", _job("task: {type: QuestionAnswering, docStride: 64}"), "spec.task.docStride"),
    Case(
        "a stride as long as a window",
        _job("task: {type: QuestionAnswering, docStride: 384}\ntraining: {maxLength: 384}", dataset=_SPLIT),
        "spec.task.docStride",
    ),
    Case(
        "a stride below zero",
        _job("task: {type: QuestionAnswering, docStride: -1}", dataset=_SPLIT),
        "spec.task.docStride",
    ),
    Case("an unknown task", _job("task: {type: Regression}"), "spec.task.type"),
    Case("labels without a type", _job("task: {labels: [a]}"), "spec.task.labels"),
    Case("one label", _job("task: {type: TokenClassification, labels: [O]}"), "spec.task.labels"),
    Case("a label twice", _job("task: {type: TokenClassification, labels: [O, O]}"), "spec.task.labels"),
    Case("a label without a name", _job("task: {type: TokenClassification, labels: [O, '']}"), "spec.task.labels"),
    Case("labels of a chat", _job("task: {labels: [a, b]}"), "spec.task.labels"),
    Case("labels of questions", _job("task: {type: QuestionAnswering, labels: [a, b]}"), "spec.task.labels"),
    Case(
        "chats with labels",
        _job("task: {type: SequenceClassification}", dataset="train: {uri: s3://datasets/a}, format: Messages"),
        "spec.dataset.format",
    ),
    Case(
        "labels without a task",
        _job(dataset="train: {uri: s3://datasets/a}, format: TextLabel"),
        "spec.dataset.format",
    ),
    Case(
        "a target without a task",
        _job("task: {type: CausalLM}", dataset="train: {uri: s3://datasets/a}, format: SourceTarget"),
        "spec.dataset.format",
    ),
    Case(
        "packed labels",
        _job("task: {type: SequenceClassification}\ntraining: {packing: true}"),
        "spec.training.packing",
    ),
    Case(
        "turns of a translation",
        _job("task: {type: Seq2SeqLM}", dataset="train: {uri: s3://datasets/a}, trainOn: All"),
        "spec.dataset.trainOn",
    ),
    Case(
        "roles in a translation",
        _job("task: {type: Seq2SeqLM}", dataset="train: {uri: s3://datasets/a}, roles: {bot: assistant}"),
        "spec.dataset.roles",
    ),
    Case(
        "virtual tokens before a text with a label",
        _job("task: {type: SequenceClassification}\nmethod: {type: PTuning}"),
        "spec.method.type",
    ),
    Case(
        "PiSSA with a head",
        _job("task: {type: QuestionAnswering}\nmethod: {type: LoRA, initialization: PiSSA}"),
        "spec.method.initialization",
    ),
    Case(
        "an adapter with a head to train on",
        _job("task: {type: Seq2SeqLM}", model="uri: s3://models/tiny, adapter: {uri: s3://adapters/first}"),
        "spec.model.adapter",
    ),
    Case(
        "smoothed labels of spans",
        _job("task: {type: QuestionAnswering}\ntraining: {labelSmoothing: '0.1'}"),
        "spec.training.labelSmoothing",
    ),
    Case(
        "a merged translation",
        _job("task: {type: Seq2SeqLM}", dataset=HELD_OUT, output="uri: s3://adapters/case, merge: {}"),
        "spec.output",
    ),
    Case(
        "a translation by a model of one's own",
        _job("task: {type: Seq2SeqLM}\nextensions: {model: mine}"),
        "spec.extensions.model",
    ),
]
