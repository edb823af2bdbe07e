"""How much memory does it take to read, check and tokenise a gigabyte of chats? Peak RSS and rows a second, as JSON.

    python bench/data_memory.py MODEL [--megabytes 1000] [--folder /tmp/data-memory]

MODEL is a folder with a tokenizer and a chat template (examples/demo/model.py makes one). The peak is of the process
that prepares the data, with everything that it imports; `idle` is its size before the first row.
"""

import argparse
import json
import random
import resource
import shutil
import time
from pathlib import Path

from transformers import AutoTokenizer

from finetune_api.v1alpha1 import Dataset
from finetune_trainer.data.dataset import Dataset as Prepared
from finetune_trainer.data.options import Options
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.source import DataFile, Source

WORDS = ("the", "model", "learns", "to", "answer", "a", "question", "with", "few", "words", "and", "then", "to", "stop")


def write_chats(path: Path, size: int) -> None:
    """Write chats of about 350 tokens until the file has `size` bytes."""
    numbers = random.Random(0)

    def words(least: int, most: int) -> str:
        return " ".join(numbers.choices(WORDS, k=numbers.randint(least, most)))

    with path.open("w") as file:
        while file.tell() < size:
            messages = []
            for _ in range(numbers.choice((1, 1, 2))):
                messages.append({"role": "user", "content": words(20, 150)})
                messages.append({"role": "assistant", "content": words(20, 300)})
            file.write(json.dumps({"messages": messages}) + "\n")


def peak() -> float:
    """The largest size of this process until now, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/data-memory"))  # noqa: S108 - the user may choose
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    file = options.folder / "chats.jsonl"
    write_chats(file, options.megabytes * 1_000_000)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    idle, start, cpu = peak(), time.perf_counter(), time.process_time()
    reading = Options(Dataset.model_validate({"train": {"uri": "s3://data/chats.jsonl"}}), 2048)
    source = Source("chats.jsonl", (DataFile("chats.jsonl", file),), "")
    prepare(source, reading, tokenizer, options.folder / "rows", "key", lambda _: None)
    seconds, busy, most = time.perf_counter() - start, time.process_time() - cpu, peak()
    made = Prepared.open(options.folder / "rows")
    rows, facts = made.rows, made.facts
    result = {
        "megabytes": file.stat().st_size / 1e6,
        "rows": len(rows),
        "tokens": facts.tokens,
        "idle_mb": idle,
        "peak_mb": most,
        "rows_per_second": len(rows) / seconds,
        "rows_per_cpu_second": len(rows) / busy,
    }
    print(json.dumps({name: round(value) for name, value in result.items()}))
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
