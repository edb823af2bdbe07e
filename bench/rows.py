"""The benchmark's rows: chats of a seeded generator, as long as real ones, about half of their tokens trained."""

import json
import random
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1 import Dataset
from finetune_trainer.data.dataset import Dataset as Prepared
from finetune_trainer.data.options import Options
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.source import DataFile, Source

WORDS = (
    "the a one every some cluster model team service region report customer order window garden river market engine "
    "paper letter doctor teacher winter summer morning question answer reason problem result number system process "
    "method point line part place case week company group problem fact night water room area money story issue side "
    "kind head house friend power hour game line end member law car city name president minute idea body back parent "
    "is was has had can may will would should could makes takes gives shows needs wants finds keeps lets begins seems "
    "small large early late good new old high low great long little own other right big different next important few "
    "public bad same able with from about into over after under between without through against during before toward"
).split()


def chat(chance: random.Random) -> dict[str, list[dict[str, str]]]:
    """One exchange in the form of prompt and completion; 119 to 476 tokens under SmolLM2's template."""
    asked, answered = chance.randrange(45, 190), chance.randrange(40, 215)
    return {
        "prompt": [{"role": "user", "content": sentences(chance, asked)}],
        "completion": [{"role": "assistant", "content": sentences(chance, answered)}],
    }


def sentences(chance: random.Random, words: int) -> str:
    """Text of so many words that no two rows share."""
    text = []
    while words > 0:
        length = min(words, chance.randrange(6, 16))
        text.append(" ".join(chance.choices(WORDS, k=length)).capitalize() + ".")
        words -= length
    return " ".join(text)


def write(path: Path, count: int, seed: int = 11) -> Path:
    """Write `count` rows as JSONL and return the path."""
    chance = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(chat(chance)) + "\n" for _ in range(count)))
    return path


def tokenise(path: Path, tokenizer: Any, length: int, folder: Path) -> Prepared:
    """Read, check, tokenise and label a file as the `prepare` stage does, into shards in `folder`."""
    options = Options(Dataset.model_validate({"train": {"uri": "s3://bench/rows.jsonl"}}), length)
    prepare(Source(path.name, (DataFile(path.name, path),), ""), options, tokenizer, folder, "bench", lambda _: None)
    return Prepared.open(folder)
