"""What is published beside the weights: the facts for manifest.json, and the model card made of them."""

from pathlib import Path
from typing import Any

import yaml

from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Training
from finetune_trainer.methods.describe import described, library, stored, tags
from finetune_trainer.publish.provenance import provenance, versions
from finetune_trainer.training.fit import Fitted
from finetune_trainer.training.inputs import Inputs
from finetune_trainer.training.merge import FOLDER, Merged
from finetune_trainer.training.taskcard import (
    confusion_table,
    how_to_load,
    label_names,
    measured,
    task_facts,
    task_header,
    trained,
)


def facts(run: RunFile, inputs: Inputs, fitted: Fitted, merged: Merged | None) -> dict[str, object]:
    """What a reader needs to trust or repeat the run; JSON values only."""
    return {
        "job": {"name": run.name, "namespace": run.namespace, "uid": run.uid, "attempt": run.attempt},
        "contentHash": inputs.content,
        "baseModel": {
            "uri": run.model.uri,
            "revision": inputs.revision or run.model.revision,
            "adapter": run.model.adapter.uri if run.model.adapter else None,
        },
        "dataset": {
            "train": run.dataset.train.uri,
            "more": [more.model_dump(mode="json", by_alias=True) for more in run.dataset.train.more],
            "evaluation": run.dataset.evaluation.uri if run.dataset.evaluation else None,
            **inputs.report.model_dump(by_alias=True),
        },
        "method": run.method.model_dump(mode="json", by_alias=True, exclude_none=True),
        "training": run.training.model_dump(mode="json", by_alias=True, exclude_none=True),
        "steps": fitted.step,
        "publishedStep": fitted.published,
        "lossBefore": fitted.before.loss if fitted.before else None,
        "lossAfter": fitted.after.loss if fitted.after else None,
        **task_facts(run, label_names(inputs.task), fitted.before, fitted.after),
        "lossMerged": merged.loss if merged else None,
        "mergeRefused": (merged.refused or None) if merged else None,
        "versions": versions(),
        "provenance": provenance(run),
    }


def _rates(training: Training) -> str:
    """For instance `2e-4 (lm_head 2e-5)`."""
    own = [f"{', '.join(g.modules)} {g.learning_rate}" for g in training.parameter_groups if g.learning_rate]
    return f"{training.learning_rate} ({'; '.join(own)})" if own else training.learning_rate


def model_card(run: RunFile, inputs: Inputs, fitted: Fitted, record: dict[str, Any], folder: Path) -> str:
    """README.md of the adapter that is in `folder`: short, and nothing in it that was not measured."""
    base, revision = run.model.uri.removeprefix("hf://"), record["baseModel"]["revision"]
    header: dict[str, object] = {"library_name": library(run.method), "tags": tags(run.method)}
    header |= task_header(run.task.type)
    if run.model.uri.startswith("hf://"):
        header["base_model"] = base
    data = inputs.report
    made_with = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    training = run.training
    method = (
        f"- Method: {run.method.type}, the base {stored(run.method)}; {fitted.step} optimizer steps of "
        f"{training.batch_size} sequences with {training.optimizer.type}, peak learning rate {_rates(training)}, "
        f"{training.scheduler} schedule, seed {training.seed}"
    )
    dataset = (
        f"- Data: {data.rows} rows, {data.tokens} tokens, {trained(run.task.type, data)}; {data.dropped_rows} "
        f"rows longer than {run.training.max_length} tokens left out, {data.truncated_rows} cut there, "
        f"{data.invalid_rows} skipped because they could not be used; sha256 `{data.sha256}`"
    )
    adapter = f"{described(run.method)} for `{base}`"
    at = f" at revision `{revision}`" if revision else ""
    at += f", trained on from `{run.model.adapter.uri}`." if run.model.adapter else "."
    facts_list = [
        method,
        dataset,
        measured(run.task.type, data.evaluation_rows, fitted.before, fitted.after),
        *_published(fitted),
        *_merged(record),
        f"- Made with {made_with}",
    ]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {run.name}",
        adapter + at,
        "\n".join(facts_list),
        confusion_table(label_names(inputs.task), fitted.after),
        how_to_load(run, inputs.task, revision, folder),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _published(fitted: Fitted) -> list[str]:
    return [f"- The weights are those of step {fitted.published}, the best"] if fitted.published != fitted.step else []


def _merged(record: dict[str, Any]) -> list[str]:
    if record["lossMerged"] is None or record["mergeRefused"]:
        return []
    return [f"- Merged into the base, in `{FOLDER}/`: {record['lossMerged']:.4f}"]
