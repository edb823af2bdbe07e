"""Rows per second from chat JSONL to labelled, packed sequences on disk; one side per process.

    python -m bench.preparing ours|trl|tokenizer|tokenizer-fast FOLDER LENGTH

`tokenizer` is the ceiling: one batched call on text that is rendered already, no labels, no file. `tokenizer-fast` does
not even say which characters a token stands for, which labels are made of.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROCESSES = 2
"""TRL's dataset_num_proc; the fast tokenizer of the others uses as many threads as there are cores."""


def ours(folder: Path, length: int) -> float:
    """Seconds of the `prepare` stage from file to shards, and of the packing that training does with their lengths."""
    from bench.rows import tokenise  # noqa: PLC0415
    from finetune_trainer.data.packing import Packs  # noqa: PLC0415
    from finetune_trainer.tokenizer import load_tokenizer  # noqa: PLC0415

    tokenizer = load_tokenizer(folder / "model")
    start = time.perf_counter()
    rows = tokenise(folder / "many.jsonl", tokenizer, length, folder / "many").rows
    Packs(rows, rows.lengths.tolist(), length, 0)
    return time.perf_counter() - start


def trl(folder: Path, length: int) -> float:
    """Seconds of TRL's own preparation, caches off, with packing, written to disk."""
    import datasets  # noqa: PLC0415
    from trl import SFTConfig, SFTTrainer  # noqa: PLC0415

    from finetune_trainer.tokenizer import load_tokenizer  # noqa: PLC0415

    datasets.disable_caching()
    tokenizer = load_tokenizer(folder / "model")
    config = SFTConfig(
        output_dir=str(folder / "trl"), use_cpu=True, report_to=[], max_length=length, packing=True,
        dataset_num_proc=PROCESSES, completion_only_loss=True,
    )  # fmt: skip
    few = datasets.Dataset.from_list([json.loads(line) for line in (folder / "many.jsonl").open()][:4])
    config.dataset_num_proc = 1
    trainer = SFTTrainer(model=_small_model(), args=config, train_dataset=few, processing_class=tokenizer)
    config.dataset_num_proc = PROCESSES
    start = time.perf_counter()
    shutil.rmtree(folder / "trl-cache", ignore_errors=True)
    raw = datasets.load_dataset("json", data_files=str(folder / "many.jsonl"), cache_dir=str(folder / "trl-cache"))
    done = trainer._prepare_dataset(raw["train"], tokenizer, config, True, None, "train")  # noqa: SLF001
    done.save_to_disk(str(folder / "trl-packed"))
    return time.perf_counter() - start


def tokenizer(folder: Path, _length: int, call: str = "encode_batch") -> float:
    """Seconds of the bare tokenizer."""
    from finetune_trainer.tokenizer import load_tokenizer  # noqa: PLC0415

    fast = load_tokenizer(folder / "model")
    rows = [json.loads(line) for line in (folder / "many.jsonl").open()]
    texts = [fast.apply_chat_template(row["prompt"] + row["completion"], tokenize=False) for row in rows]
    start = time.perf_counter()
    getattr(fast.backend_tokenizer, call)(texts, add_special_tokens=False)
    return time.perf_counter() - start


def tokenizer_fast(folder: Path, length: int) -> float:
    """Seconds of the bare tokenizer without offsets."""
    return tokenizer(folder, length, "encode_batch_fast")


def _small_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=49_152, **size))


SIDES: dict[str, Callable[[Path, int], float]] = {
    "ours": ours,
    "trl": trl,
    "tokenizer": tokenizer,
    "tokenizer-fast": tokenizer_fast,
}

if __name__ == "__main__":
    seconds = SIDES[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({"seconds": seconds}))
