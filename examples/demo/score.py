"""How many held-out requests a model answers right: the base model, and the same model with the trained adapter.

Both are loaded the plain way, by transformers and PEFT. An answer is right when it parses as JSON and equals the object
that the request means. Greedy decoding, so the result is always the same.

    python examples/demo/score.py MODEL_FOLDER ADAPTER_FOLDER eval.jsonl [--result result.json]
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MAX_NEW_TOKENS = 48
BATCH_SIZE = 24


@dataclass(frozen=True)
class Answered:
    """One held-out request with the right answer and both models' answers."""

    request: str
    wanted: str
    base: str
    tuned: str


@dataclass(frozen=True)
class Score:
    """Exact match before and after, as shares of 1, and every answer."""

    base: float
    tuned: float
    answers: list[Answered]


def equal(answer: str, wanted: str) -> bool:
    """Tell whether both are the same JSON value; what does not parse is wrong."""
    try:
        return bool(json.loads(answer) == json.loads(wanted))
    except ValueError:
        return False


def compare(model_folder: Path, adapter_folder: Path, held_out: Path) -> Score:
    """Let the base model and the tuned one answer every row of `held_out`."""
    print("loading the base model", flush=True)
    import torch  # noqa: PLC0415 - slow to import
    from peft import PeftModel  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    rows = [json.loads(line)["messages"] for line in held_out.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(model_folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    base = list(_answers(model, tokenizer, rows, "the base model"))
    print("loading the adapter", flush=True)
    model = PeftModel.from_pretrained(model, adapter_folder)
    tuned = list(_answers(model, tokenizer, rows, "the tuned model"))
    wanted = [row[-1]["content"] for row in rows]
    answers = [Answered(row[-2]["content"], *texts) for row, *texts in zip(rows, wanted, base, tuned, strict=True)]
    return Score(_share(base, wanted), _share(tuned, wanted), answers)


def _answers(model: Any, tokenizer: Any, rows: list[Any], whose: str) -> Iterator[str]:
    """Yield the model's answer to each row, in batches, saying how far it is."""
    model.eval()
    for start in range(0, len(rows), BATCH_SIZE):
        prompts = [row[:-1] for row in rows[start : start + BATCH_SIZE]]
        inputs = tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        )
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS, use_cache=True)
        yield from tokenizer.decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        print(f"{whose} has answered {start + len(prompts)} of {len(rows)} requests", flush=True)


def _share(answers: list[str], wanted: list[str]) -> float:
    return sum(map(equal, answers, wanted)) / len(wanted)


def main() -> int:
    """Print both shares and three examples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "adapter", "held_out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--result", type=Path, help="write everything here as JSON")
    options = parser.parse_args()
    score = compare(options.model, options.adapter, options.held_out)
    if options.result:
        options.result.write_text(json.dumps(asdict(score)))
    print(f"exact match: {score.base:.0%} before, {score.tuned:.0%} after, of {len(score.answers)} held-out requests")
    return 0


if __name__ == "__main__":
    sys.exit(main())
