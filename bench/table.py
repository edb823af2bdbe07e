"""The results as a page."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from bench.training import ratios

BARS = {("ours-bf16", "512"): ">= 2.0", ("ours-bf16", "2048"): ">= 3.0"}


def render(results: dict[str, Any]) -> str:
    """Markdown: the machine, then a table for each thing measured."""
    lines = [*_machine(results["machine"]), ""]
    for length, found in results["training"].items():
        lines += [*_training(length, found), ""]
    if "preparing" in results:
        lines += [*_preparing(results["preparing"]), ""]
    if "starting" in results:
        lines += [*_starting(results["starting"]), ""]
    if "saving" in results:
        lines += [*_saving(results["saving"]), ""]
    return "\n".join(lines)


def _machine(machine: dict[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    yield f"{machine['date']}; {machine['cpu']}, {machine['memory']}, {machine['threads']} threads."
    yield f"Python {machine['python']}, {versions}."


def _training(length: str, found: dict[str, Any]) -> Iterator[str]:
    yield f"Packs of {length} tokens, SmolLM2-135M, LoRA r 8 on all linear layers, one pack a step, about half trained."
    yield ""
    yield "| contender | tokens/s min / median / max | x TRL min / median / max | bar | extra memory MB | x TRL | peak MB | others' cores | loss off by | tokens per CPU second | x TRL |"  # noqa: E501
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    peer = found.get("trl")
    for name, row in found.items():
        if name == "equal":
            continue
        speed = row["tokens_per_second"]
        against = _three(ratios(speed, peer["tokens_per_second"]).values(), 2) if peer else "-"
        memory = f"{row['extra_bytes'] / peer['extra_bytes']:.2f}" if peer else "-"
        cpu = row["tokens_per_cpu_second"]
        saved = _three(ratios(cpu, peer["tokens_per_cpu_second"]).values(), 2) if peer else "-"
        others = f"{statistics.mean(row['others_cores']):.2f}"
        yield (
            f"| {name} | {_three(_spread(speed), 0)} | {against} | {BARS.get((name, length), '')} | "
            f"{row['extra_bytes'] / 1e6:.0f} | {memory} | {row['peak_bytes'] / 1e6:.0f} | {others} | "
            f"{found['equal'][name]:.1e} | "
            f"{_three(_spread(cpu), 0)} | {saved} |"
        )


def _preparing(found: dict[str, Any]) -> Iterator[str]:
    yield "From chat JSONL to labelled, packed sequences on disk, rows per second."
    yield ""
    yield "| what | rows/s min / median / max | ours over it, min / median / max | bar |"
    yield "|---|---|---|---|"
    bars = {"trl": ">= 2.3", "tokenizer": ">= 0.6"}
    for name in ("ours", "trl", "tokenizer", "tokenizer-fast"):
        against = _three(ratios(found["ours"], found[name]).values(), 2) if name != "ours" else ""
        yield f"| {name} | {_three(_spread(found[name]), 0)} | {against} | {bars.get(name, '')} |"
    yield ""
    yield f"Others had {found['others_cores'][0]} cores."


def _starting(found: dict[str, Any]) -> Iterator[str]:
    yield "From the start of the program, seconds."
    yield ""
    yield "| until | ours min / median / max | `trl sft` min / median / max | ours / TRL min / median / max | bar |"
    yield "|---|---|---|---|---|"
    for what, bar in (("first_step", "<= 0.8x"), ("refusal", "< 1 s")):
        ours, trl = found[what]["ours"], found[what]["trl"]
        against = _three(ratios(ours, trl).values(), 2)
        yield f"| {what} | {_three(_spread(ours), 2)} | {_three(_spread(trl), 2)} | {against} | {bar} |"
    yield ""
    yield f"Others had {found['first_step']['others_cores'][0]} cores."


def _saving(found: dict[str, Any]) -> Iterator[str]:
    yield "A checkpoint before each step: seconds that the loop stands still for it, and that the step beside it takes."
    yield ""
    yield "| who | standstill min / median / max | over the Trainer's | bar | step min / median / max | over none |"
    yield "|---|---|---|---|---|---|"
    for side in ("none", "trainer", "ours"):
        still, step = found[side]["standstill"], found[side]["step"]
        against = "" if side == "none" else _three(ratios(still, found["trainer"]["standstill"]).values(), 2)
        slower = "" if side == "none" else _three(ratios(step, found["none"]["step"]).values(), 2)
        bar = "<= 0.3" if side == "ours" else ""
        yield f"| {side} | {_three(_spread(still), 3)} | {against} | {bar} | {_three(_spread(step), 2)} | {slower} |"
    yield ""
    yield f"Others had {found['others_cores']} cores."


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def _three(values: Any, digits: int) -> str:
    low, middle, high = values
    return f"{low:.{digits}f} / **{middle:.{digits}f}** / {high:.{digits}f}"
