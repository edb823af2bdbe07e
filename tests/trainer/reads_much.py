"""A process of its own that prepares little data, then much, and prints by how many bytes its peak memory grew."""

import gzip
import json
import random
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from finetune_api.v1alpha1 import Dataset as Spec
from finetune_trainer.data.containers import read_records
from finetune_trainer.data.dataset import Dataset
from finetune_trainer.data.options import Options
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.source import DataFile, Source
from tests.tiny import tiny_tokenizer

LENGTH = 500
"""Tokens of a row; 4 kB of JSON."""
TOKENIZER = tiny_tokenizer()
SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32()))])


def rows(count: int) -> Iterator[list[int]]:
    """Token ids of six digits, each row with an end."""
    numbers = random.Random(0)
    pool = [[*numbers.choices(range(100_000, 1_000_000), k=LENGTH - 1), TOKENIZER.eos_token_id] for _ in range(100)]
    for number in range(count):
        yield pool[number % len(pool)]


def texts(count: int) -> Iterator[str]:
    """The rows as JSON."""
    pool = [json.dumps(row) for row in rows(100)]
    return (pool[number % len(pool)] for number in range(count))


def write_lines(path: Path, count: int) -> None:
    """JSON lines, compressed."""
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.writelines(f'{{"input_ids": {text}}}\n' for text in texts(count))


def write_array(path: Path, count: int) -> None:
    """One array."""
    with path.open("w") as file:
        file.writelines(
            f'{"," if number else "["}\n{{"input_ids": {text}}}' for number, text in enumerate(texts(count))
        )
        file.write("]")


def write_table(path: Path, count: int) -> None:
    """A table whose cells are JSON."""
    with path.open("w") as file:
        file.write("input_ids\n")
        file.writelines(f'"{text}"\n' for text in texts(count))


def write_parquet(path: Path, count: int) -> None:
    """Row groups of a hundred rows."""
    group = pa.record_batch([list(rows(100))], schema=SCHEMA)
    with parquet.ParquetWriter(path, SCHEMA, use_dictionary=False) as writer:
        for _ in range(count // 100):
            writer.write_batch(group)


CONTAINERS: dict[str, Callable[[Path, int], None]] = {
    "rows.jsonl.gz": write_lines,
    "rows.json": write_array,
    "rows.csv": write_table,
    "rows.parquet": write_parquet,
}


def work(folder: Path, count: int) -> None:
    """Read the rows from every container, and prepare those of the first."""
    for name in CONTAINERS:
        assert sum(1 for _ in read_records(folder / str(count) / name)) == count
    file = DataFile("rows", folder / str(count) / "rows.jsonl.gz")
    options = Options(Spec.model_validate({"train": {"uri": "s3://data/rows"}}), LENGTH)
    prepare(Source("rows", (file,), ""), options, TOKENIZER, folder / "shards", "key", lambda _: None)
    seen = Dataset.open(folder / "shards").rows
    assert (len(seen), len(seen[count - 1])) == (count, LENGTH)


def peak() -> int:
    """The largest memory of this process until now, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    place, few, many = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for number in (few, many):
        (place / str(number)).mkdir()
        for container, write in CONTAINERS.items():
            write(place / str(number) / container, number)
    work(place, few)
    before = peak()
    work(place, many)
    print(peak() - before)  # noqa: T201
