"""What manifest and model card say of a task: what was measured, and how the result is loaded with its labels."""

from pathlib import Path
from typing import Any

from finetune_api.outcome import DatasetReport
from finetune_api.run import RunFile
from finetune_api.v1alpha1 import MethodType, TaskType
from finetune_trainer.publish.vllm import serve_command
from finetune_trainer.tasks.task import Task
from finetune_trainer.training.scores import Scores

_PIPELINES = {
    TaskType.SEQUENCE_CLASSIFICATION: "text-classification",
    TaskType.TOKEN_CLASSIFICATION: "token-classification",
    TaskType.QUESTION_ANSWERING: "question-answering",
}
_ITEMS = {
    TaskType.CAUSAL_LM: "trained token",
    TaskType.SEQUENCE_CLASSIFICATION: "row",
    TaskType.TOKEN_CLASSIFICATION: "word",
    TaskType.SEQ2SEQ_LM: "token of the target",
    TaskType.QUESTION_ANSWERING: "end of an answer",
}
SHOWN_LABELS = 12
"""Labels of a table that people read; of more, the manifest has the counts."""


def task_facts(run: RunFile, labels: list[str], before: Scores | None, after: Scores | None) -> dict[str, object]:
    """For the manifest; JSON values only."""
    return {
        "task": {"type": str(run.task.type), **({"labels": labels} if labels else {})},
        "metricsBefore": dict(before.metrics) if before else None,
        "metricsAfter": dict(after.metrics) if after else None,
        "confusionAfter": {true: dict(told) for true, told in after.confusion.items()} if after else None,
    }


def trained(kind: TaskType, data: DatasetReport) -> str:
    """How much of the data gives a loss."""
    if kind is TaskType.CAUSAL_LM:
        return f"{data.trained_tokens} of them trained"
    return f"{data.trained_tokens} items that give a loss"


def task_header(kind: TaskType) -> dict[str, object]:
    """For the head of the model card."""
    return {"pipeline_tag": _PIPELINES[kind]} if kind in _PIPELINES else {}


def measured(kind: TaskType, rows: int, before: Scores | None, after: Scores | None) -> str:
    """The losses and metrics, as lines of a list."""
    if before is None or after is None:
        return "- Not evaluated: the job named no held-out rows"
    per = f"Mean loss per {_ITEMS[kind]} (nats) on {rows} held-out rows"
    lines = [f"- {per}: {before.loss:.4f} before, {after.loss:.4f} after"]
    for name, value in after.metrics.items():
        lines.append(f"- {name} on the same: {before.metrics.get(name, 0.0):.4f} before, {value:.4f} after")
    return "\n".join(lines)


def confusion_table(labels: list[str], after: Scores | None) -> str:
    """Rows by true label, columns by predicted label; empty where there is none, or too much."""
    if after is None or not after.confusion or len(labels) > SHOWN_LABELS:
        return ""
    head = f"| true \\ predicted | {' | '.join(labels)} |\n|---|{'---|' * len(labels)}"
    lines = [
        f"| {true} | {' | '.join(str(after.confusion.get(true, {}).get(told, 0)) for told in labels)} |"
        for true in labels
    ]
    return "\n".join(["Held-out items by label:\n", head, *lines])


def how_to_load(run: RunFile, task: Task, revision: str | None, folder: Path) -> str:
    """Code that loads the result with peft and transformers, and a chat model's command for vLLM.

    Args:
        run: The whole run.
        task: What it has learned.
        revision: Of an hf:// model.
        folder: The result as it will be published.
    """
    if run.extensions.model:  # only code of the user's own makes the base
        return ""
    named = run.model.uri.startswith("hf://") or run.method.type is MethodType.FULL
    base = run.model.uri.removeprefix("hf://") if named else "BASE"
    place = "" if named else f" and BASE one of `{run.model.uri}`"
    labels = "; its config.json has the names of the labels" if label_names(task) else ""
    at = revision if revision and named else None
    code = "\n".join(_code(run, task, base, at))
    parts = [f"To load it, with FOLDER a copy of `{run.output.uri}`{place}{labels}:", f"```python\n{code}\n```"]
    if task.kind is TaskType.CAUSAL_LM and (command := serve_command(folder, run.name, base, at)):
        parts += ["To serve it with vLLM:", f"```sh\n{command}\n```"]
    return "\n\n".join(parts)


def _code(run: RunFile, task: Task, base: str, revision: str | None) -> list[str]:
    """The lines of Python."""
    name, tokenizer = task.auto_class.__name__, 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")'
    if run.method.type is MethodType.FULL:
        return [
            f"from transformers import AutoTokenizer, {name}",
            f'model = {name}.from_pretrained("FOLDER").eval()',
            tokenizer,
        ]
    classes = ["AutoConfig"] if task.kind.has_head else []
    options = f', revision="{revision}"' if revision else ""
    options += ', config=AutoConfig.from_pretrained("FOLDER")' if task.kind.has_head else ""
    return [
        "from peft import PeftModel",
        f"from transformers import {', '.join([*classes, name, 'AutoTokenizer'])}",
        f'base = {name}.from_pretrained("{base}"{options})',
        'model = PeftModel.from_pretrained(base, "FOLDER").eval()',
        tokenizer,
    ]


def label_names(task: Task) -> list[str]:
    """The labels by number; none for a task without."""
    names: dict[int, Any] = task.settings.get("id2label", {})
    return [str(name) for name in names.values()]
