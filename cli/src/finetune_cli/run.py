"""`finetune run`: the same job file, the same trainer, this machine."""

import time

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from finetune_api.outcome import Outcome, Reason
from finetune_cli.plan import Plan
from finetune_cli.show import display, duration
from finetune_cli.trainer import Trainer

_POLL_SECONDS = 0.2
SHOWN = "trained is what stands between >>> and <<<: "
"""How the trainer's log begins to show a row."""


def run(plan: Plan, console: Console, *, verbose: bool) -> int:
    """Run the job to its end, show it, and return the trainer's exit code."""
    began = time.monotonic()
    trainer = Trainer(plan)
    try:
        _announce(plan, console)
        _follow(trainer, console, verbose=verbose)
        _conclude(plan, trainer, console, time.monotonic() - began)
        return trainer.code
    finally:
        trainer.close()


def _announce(plan: Plan, console: Console) -> None:
    console.print(Text.assemble("running ", (plan.run.name, "bold"), f" in {plan.folder}"), soft_wrap=True)
    for remark in plan.remarks:
        console.print(Text(remark, style="yellow"), soft_wrap=True)


def _follow(trainer: Trainer, console: Console, *, verbose: bool) -> None:
    with display(console) as shown:
        over = False
        while not over:
            over = trainer.ended(_POLL_SECONDS)
            if verbose and (lines := trainer.new_lines()):
                console.print(Text(lines.rstrip("\n")), soft_wrap=True)
            shown.update(trainer.progress(), stopping=trainer.asked_to_stop)


def _conclude(plan: Plan, trainer: Trainer, console: Console, seconds: float) -> None:
    outcome = trainer.outcome()
    if outcome is None:
        _died(plan, trainer, console)
    elif outcome.reason in (Reason.PUBLISHED, Reason.ALREADY_PUBLISHED):
        console.print(Panel(_published(outcome, seconds), title="done", border_style="green", expand=False))
    elif outcome.reason is Reason.PREPARED:
        console.print(Panel(_prepared(plan, outcome, seconds), title="ready", border_style="green", expand=False))
    elif outcome.reason is Reason.PREEMPTED:
        stopped = f"stopped at step {outcome.step}; run the same command to resume\n{outcome.message}"
        console.print(Panel(Text(stopped), title="stopped", border_style="yellow", expand=False))
    else:
        text = Text.assemble(outcome.message, *([("\n" + outcome.hint, "bold")] if outcome.hint else []))
        text.append(f"\nlog: {plan.log_file}", style="dim")
        console.print(Panel(text, title=outcome.reason.value, border_style="red", expand=False))


def _published(outcome: Outcome, seconds: float) -> Table:
    table = Table.grid(padding=(0, 2))
    if artifact := outcome.artifact:
        table.add_row("adapter", f"{artifact.uri}  ({artifact.files} files, {artifact.bytes / 1e6:.1f} MB, verified)")
    if outcome.loss_before is not None and outcome.loss_after is not None:
        table.add_row("held-out loss", f"{outcome.loss_before:.4f} before, {outcome.loss_after:.4f} after")
    if outcome.loss_merged is not None:
        table.add_row("merged", f"{outcome.loss_merged:.4f}, in merged/")
    for name, after in outcome.metrics_after.items():
        before = outcome.metrics_before.get(name)
        table.add_row(name, f"{before:.4f} before, {after:.4f} after" if before is not None else f"{after:.4f} after")
    _tell_dataset(table, outcome)
    if outcome.peak_memory_bytes:
        table.add_row("peak memory", f"{outcome.peak_memory_bytes / 1e9:.1f} GB")
    table.add_row("steps", str(outcome.step))
    table.add_row("time", duration(seconds))
    return table


def _prepared(plan: Plan, outcome: Outcome, seconds: float) -> Table:
    table = Table.grid(padding=(0, 2))
    _tell_dataset(table, outcome)
    if data := outcome.dataset:
        lengths = f"{data.p50_length} (median), {data.p95_length} (95 %), {data.p99_length} (99 %), {data.longest_row}"
        table.add_row("format", data.format)
        table.add_row("row lengths", f"{lengths} (longest) tokens; at most {plan.run.training.max_length} are taken")
        if data.duplicate_rows:
            table.add_row("repeated", f"{data.duplicate_rows} rows repeat an earlier one and are kept")
    for shown in _shown(plan.log_file.read_text(errors="replace")):
        table.add_row("trained is", Text(shown, overflow="fold"))
    table.add_row("time", duration(seconds))
    return table


def _shown(log: str) -> list[str]:
    """The rows that the log shows with their trained parts marked, once each."""
    parts = (line.partition(SHOWN) for line in log.splitlines())
    return list(dict.fromkeys(shown.removesuffix(".") for _, found, shown in parts if found))


def _tell_dataset(table: Table, outcome: Outcome) -> None:
    if data := outcome.dataset:
        lost = (
            (data.dropped_rows, "too long and left out"),
            (data.truncated_rows, "cut"),
            (data.invalid_rows, "skipped"),
        )
        less = "".join(f", {count} {what}" for count, what in lost if count)
        table.add_row("dataset", f"{data.rows} rows, {data.tokens} tokens, {data.trained_tokens} of them trained{less}")
    if outcome.estimated_memory_bytes:
        table.add_row("memory", f"training will take about {outcome.estimated_memory_bytes / 1e9:.1f} GB")


def _died(plan: Plan, trainer: Trainer, console: Console) -> None:
    text = Text(f"The trainer ended with code {trainer.code} and left no outcome. Its last lines:\n")
    text.append("\n".join(trainer.last_lines()) or "(none)", style="dim")
    text.append(f"\nlog: {plan.log_file}", style="dim")
    console.print(Panel(text, title="no outcome", border_style="red", expand=False))
