"""The memory estimate against what runs really took: `python bench/memory_estimate.py [--only SUBSTRING]`.

Each point is a run of its own: the trainer's worker, on a random Llama of a real one's width, on the CPU. Measured is
the largest resident size of the process; both sides hold the libraries.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from finetune_api.run import RunFile  # noqa: E402
from finetune_trainer.estimate.estimate import anatomy  # noqa: E402
from finetune_trainer.workdir import WorkDir  # noqa: E402
from tests.tiny import save_tiny_model  # noqa: E402

LORA: dict[str, Any] = {"type": "LoRA", "rank": 16}
QLORA: dict[str, Any] = {"type": "QLoRA", "rank": 16}
POINTS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    # name: method, training, tokens of a row
    "qlora 1x512": (QLORA, {}, 512),
    "qlora 1x1024": (QLORA, {}, 1024),
    "qlora 4x256": (QLORA, {"microBatchSize": 4}, 256),
    "qlora 4x512": (QLORA, {"microBatchSize": 4}, 512),
    "qlora 4x512 plain": (QLORA, {"microBatchSize": 4, "fastPaths": False}, 512),
    "qlora 4x512 checkpointing": (QLORA, {"microBatchSize": 4, "gradientCheckpointing": True}, 512),
    "qlora 2x1024 packed": (QLORA, {"microBatchSize": 2, "packing": True, "maxLength": 1024}, 511),
    "qlora 2x512 bfloat16": (QLORA, {"microBatchSize": 2, "precision": "BFloat16"}, 512),
    "lora 4x512": (LORA, {"microBatchSize": 4}, 512),
    "lora 4x512 plain": (LORA, {"microBatchSize": 4, "fastPaths": False}, 512),
    "lora r256 1x512": ({**LORA, "rank": 256}, {}, 512),
    "dora 2x512": ({**LORA, "useDoRA": True}, {"microBatchSize": 2}, 512),
    "ia3 4x512": ({"type": "IA3"}, {"microBatchSize": 4}, 512),
    "prompt 4x512": ({"type": "PromptTuning", "virtualTokens": 16}, {"microBatchSize": 4}, 512),
}


def save_model(folder: Path) -> Path:
    """A random model as wide as SmolLM2-135M with a third of its layers, and a byte-level tokenizer."""
    save_tiny_model(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16384, hidden_size=576, intermediate_size=1536, num_hidden_layers=10, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def run_file(folder: Path, model: Path, method: dict[str, Any], training: dict[str, Any], length: int) -> RunFile:
    """Three steps on rows of one length, half of each trained."""
    half = length // 2
    row = {"input_ids": [5 + n % 250 for n in range(length - 1)] + [2]}
    row["labels"] = [-100] * half + row["input_ids"][half:]
    (folder / "train.jsonl").write_text(f"{json.dumps(row)}\n" * 24)
    document = {
        "name": "bench",
        "namespace": "local",
        "uid": "u1",
        "model": {"uri": f"file://{model}"},
        "dataset": {"train": {"uri": f"file://{folder}/train.jsonl"}, "format": "Tokenized"},
        "method": method,
        "training": {"batchSize": training.get("microBatchSize", 1), "maxSteps": 3, **training},
        "evaluation": {},
        "storage": {},
        "output": {"uri": f"file://{folder}/out"},
    }
    return RunFile.from_json(json.dumps(document))


def measure(run: RunFile, folder: Path) -> int:
    """Bytes at the peak of a real run."""
    file, work = folder / "run.json", folder / "work"
    file.write_text(run.to_json())
    command = [sys.executable, "-m", "finetune_trainer.worker", "--run-file", str(file), "--work-dir", str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    outcome = WorkDir(work).read_outcome()
    if outcome is None or outcome.peak_memory_bytes is None:
        raise RuntimeError(f"the run failed: {outcome or done.stderr[-2000:]}")
    return outcome.peak_memory_bytes


def main() -> int:
    """Print a line for each point; the exit code says whether all are within 15 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="points whose name has this in it")
    only = parser.parse_args().only
    worst = 0.0
    with tempfile.TemporaryDirectory() as place:
        model = save_model(Path(place) / "model")
        for number, (name, (method, training, length)) in enumerate(POINTS.items()):
            if only not in name:
                continue
            folder = Path(place) / str(number)
            folder.mkdir()
            run = run_file(folder, model, method, training, length)
            tokens = run.training.max_length if run.training.packing else length
            dtype = torch.bfloat16 if run.training.precision == "BFloat16" else torch.float32
            parts = anatomy(run, model, tokens, tokens // 2, dtype, "cpu")
            told = parts.peak(run.training.micro_batch_size, checkpointing=run.training.gradient_checkpointing)
            measured = measure(run, folder)
            error = told.total / measured - 1
            worst = max(worst, abs(error))
            print(f"{name:28} measured {measured >> 20:5} MiB  {error:+6.1%}  estimate {told}", flush=True)
    print(f"largest error {worst:.1%}")
    return 0 if worst <= 0.15 else 1


if __name__ == "__main__":
    sys.exit(main())
