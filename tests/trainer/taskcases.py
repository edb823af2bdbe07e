"""Every task as a run of a tiny model, its blocks read from examples/tasks: one source for both.

And each task measured by transformers and peft alone, row by row, without pads, as a user of the folder would.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel

from finetune_api.load import load_jobs
from finetune_api.run import RunFile
from tests.tiny import jsonl
from tests.trainer import taskmodels as made

WINDOW = 40
"""Tokens."""
EXAMPLES = Path(__file__).parents[2] / "examples" / "tasks"
Row = dict[str, Any]


@dataclass(frozen=True)
class TaskCase:
    """A task on a tiny model."""

    example: str
    """Name of a file in examples/tasks."""
    kind: str
    """Of the model: see `taskmodels.save_model`."""
    rows: Callable[[int, int], list[Row]]
    auto_class: str
    """transformers' class for it."""
    head: tuple[str, ...] = ()
    """Names of the modules that are trained whole."""
    training: dict[str, Any] = field(default_factory=dict)
    gain: float = 0.5
    """By how much the held-out loss falls at least, in nats."""


CASES = {
    "texts": TaskCase(
        "sequence-classification", "bert", made.labelled_texts, "AutoModelForSequenceClassification", ("classifier",)
    ),
    "texts by a decoder": TaskCase(
        "sequence-classification-llm", "llama", made.labelled_texts, "AutoModelForSequenceClassification", ("score",)
    ),
    "words": TaskCase(
        "token-classification", "bert", made.tagged_words, "AutoModelForTokenClassification", ("classifier",)
    ),
    "targets": TaskCase("seq2seq", "t5", made.translations, "AutoModelForSeq2SeqLM"),
    "answers": TaskCase(
        "question-answering", "distilbert", made.questions, "AutoModelForQuestionAnswering", ("qa_outputs",),
        {"maxSteps": 30},
    ),
    "answers in windows": TaskCase(
        "question-answering", "distilbert", made.long_questions, "AutoModelForQuestionAnswering", ("qa_outputs",),
        {"maxSteps": 60, "maxLength": WINDOW},
    ),
}  # fmt: skip


def blocks(name: str) -> dict[str, Any]:
    """Task, method and what is said of rows in an example; its files and the size of its training are not tiny."""
    (job,) = load_jobs((EXAMPLES / f"{name}.yaml").read_text())
    spec = job.spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
    dataset = {key: value for key, value in spec["dataset"].items() if key not in ("train", "evaluation")}
    return {"task": spec["task"], "method": spec["method"], "dataset": dataset}


def written(rows: list[Row], columns: dict[str, str]) -> str:
    """Rows under the names that the example's file has."""
    return jsonl([{columns.get(key, key): value for key, value in row.items()} for row in rows])


def run_file(folder: Path, case: TaskCase, more: dict[str, Any] | None = None, **training: Any) -> RunFile:
    """A run on 24 rows with 9 held-out ones, and its model, below `folder`; `more` replaces parts of the document."""
    parts = blocks(case.example)
    columns = parts["dataset"].get("columns", {})
    if not (folder / "model").exists():
        made.save_model(case.kind, folder / "model")
    (folder / "train.jsonl").write_text(written(case.rows(24, 0), columns))
    (folder / "eval.jsonl").write_text(written(case.rows(9, 100), columns))
    sources = {
        "train": {"uri": f"file://{folder}/train.jsonl"},
        "evaluation": {"uri": f"file://{folder}/eval.jsonl"},
    }
    document = {
        "name": "tiny",
        "namespace": "local",
        "uid": "u1",
        "model": {"uri": f"file://{folder}/model"},
        "dataset": {**parts["dataset"], **sources},
        "task": parts["task"],
        "method": parts["method"],
        "training": {
            "batchSize": 8, "microBatchSize": 4, "learningRate": "1e-2", "maxSteps": 20, **case.training, **training
        },
        "evaluation": {"batchSize": 4},
        "storage": {},
        "output": {"uri": f"file://{folder}/out"},
        **(more or {}),
    }  # fmt: skip
    return RunFile.from_json(json.dumps(document))


@dataclass(frozen=True)
class Plain:
    """The published folder, loaded as the model card says."""

    model: Any
    tokenizer: Any


def load_plainly(case: TaskCase, folder: Path) -> Plain:
    """Transformers and peft alone; the base is quantized where the example's method says so."""
    out = folder / "out"
    options: dict[str, Any] = {"config": transformers.AutoConfig.from_pretrained(out)} if case.head else {}
    if blocks(case.example)["method"]["type"] == "QLoRA":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=list(case.head),
        )  # fmt: skip
    auto_class = getattr(transformers, case.auto_class)
    base = auto_class.from_pretrained(folder / "model", dtype=torch.float32, **options)
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # or it would round its scales on some CPUs
    return Plain(PeftModel.from_pretrained(base, out).eval(), transformers.AutoTokenizer.from_pretrained(out))


def _probabilities(plain: Plain, **inputs: Any) -> Any:
    with torch.inference_mode():
        return plain.model(**inputs)


def texts_by_hand(plain: Plain, rows: list[Row]) -> tuple[float, dict[str, float]]:
    """Loss, accuracy and macro F1."""
    pairs, loss = [], 0.0
    for row in rows:
        inputs = plain.tokenizer(row["text"], row.get("text_pair"), return_tensors="pt")
        logits = _probabilities(plain, **inputs).logits[0].double().log_softmax(-1)
        label = str(row["label"])
        loss -= float(logits[plain.model.config.label2id[label]])
        pairs.append((label, plain.model.config.id2label[int(logits.argmax())]))
    return loss / len(rows), _by_labels(pairs)


def words_by_hand(plain: Plain, rows: list[Row]) -> tuple[float, dict[str, float]]:
    """Loss, accuracy and macro F1 of each word's first token."""
    pairs, loss = [], 0.0
    for row in rows:
        inputs = plain.tokenizer(" ".join(row["tokens"]), return_tensors="pt")
        logits = _probabilities(plain, **inputs).logits[0].double().log_softmax(-1)
        begins = [len(" ".join([*row["tokens"][:word], ""])) for word in range(len(row["tags"]))]
        for begin, tag in zip(begins, row["tags"], strict=True):
            at = logits[inputs.char_to_token(begin)]
            loss -= float(at[plain.model.config.label2id[tag]])
            pairs.append((tag, plain.model.config.id2label[int(at.argmax())]))
    return loss / len(pairs), _by_labels(pairs)


def targets_by_hand(plain: Plain, rows: list[Row]) -> tuple[float, dict[str, float]]:
    """Loss and accuracy of the target's tokens: transformers' own loss of one row, times its tokens."""
    loss, right, count = 0.0, 0, 0
    for row in rows:
        inputs = plain.tokenizer(row["source"], return_tensors="pt")
        labels = plain.tokenizer(row["target"], return_tensors="pt").input_ids
        output = _probabilities(plain, **inputs, labels=labels)
        loss += float(output.loss) * labels.shape[1]
        right += int((output.logits[0].argmax(-1) == labels[0]).sum())
        count += labels.shape[1]
    return loss / count, {"tokenAccuracy": right / count}


def windows_by_hand(tokenizer: Any, row: Row, length: int, stride: int) -> list[dict[str, Any]]:
    """The windows of one question as transformers makes them: tokens, characters, places of context and answer.

    The first token is the answer's place where the window has not all of it.
    """
    made = tokenizer(
        row["question"], row["context"], truncation="only_second", max_length=length, stride=stride,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True,
    )  # fmt: skip
    start = row["answers"]["answer_start"][0]
    end, windows = start + len(row["answers"]["text"][0]), []
    for number, ids in enumerate(made["input_ids"]):
        spans = made["offset_mapping"][number]
        context = [place for place, of in enumerate(made.sequence_ids(number)) if of == 1]
        first = next((place for place in context if spans[place][0] <= start < spans[place][1]), None)
        last = next((place for place in context if spans[place][0] < end <= spans[place][1]), None)
        answer = [0, 0] if first is None or last is None else [first, last]
        segments = made["token_type_ids"][number]
        windows.append({"ids": ids, "segments": segments, "spans": spans, "context": context, "answer": answer})
    return windows


def answers_by_hand(plain: Plain, rows: list[Row], length: int = 100) -> tuple[float, dict[str, float]]:
    """Transformers' own loss of one window; the likeliest span by trying all of up to 30 tokens in all windows."""
    loss, exact, common, count = 0.0, 0.0, 0.0, 0
    for row in rows:
        tried = {}
        stride = (length - 3 - len(plain.tokenizer.tokenize(row["question"]))) // 2
        for window in windows_by_hand(plain.tokenizer, row, length, stride):
            ids, spans, (first, last) = torch.tensor([window["ids"]]), window["spans"], window["answer"]
            output = _probabilities(
                plain, input_ids=ids, start_positions=torch.tensor([first]), end_positions=torch.tensor([last])
            )
            loss, count = loss + float(output.loss), count + 1
            for a in window["context"]:
                for b in window["context"]:
                    if a <= b < a + 30:
                        score = float(output.start_logits[0, a] + output.end_logits[0, b])
                        tried[spans[a][0], spans[b][1], count] = score
        begin, end, _ = max(tried, key=lambda span: tried[span])
        text, answers = row["context"][begin:end], row["answers"]["text"]
        exact += max(_words(text) == _words(answer) for answer in answers)
        common += max(_f1(_words(text), _words(answer)) for answer in answers)
    return loss / count, {"exactMatch": exact / len(rows), "f1": common / len(rows)}


BY_HAND = {
    "texts": texts_by_hand,
    "texts by a decoder": texts_by_hand,
    "words": words_by_hand,
    "targets": targets_by_hand,
    "answers": answers_by_hand,
    "answers in windows": partial(answers_by_hand, length=WINDOW),
}


def _by_labels(pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Accuracy and macro F1 of (true, predicted), from the definitions."""
    f1 = []
    for label in {name for pair in pairs for name in pair}:
        right = sum(true == told == label for true, told in pairs)
        true, told = sum(t == label for t, _ in pairs), sum(p == label for _, p in pairs)
        precision, recall = right / told if told else 0.0, right / true if true else 0.0
        f1.append(2 * precision * recall / (precision + recall) if right else 0.0)
    return {"accuracy": sum(true == told for true, told in pairs) / len(pairs), "macroF1": sum(f1) / len(f1)}


def _words(text: str) -> list[str]:
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def _f1(one: list[str], other: list[str]) -> float:
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other)) if common else float(one == other)
