"""Plain text is learned as in pre-training: all tokens but the first, and the end, on a base without chat template."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer

from finetune_api.outcome import Outcome
from tests.trainer.methodcases import plain_base
from tests.trainer.taskcases import CASES, TaskCase, blocks
from tests.trainer.taskcases import run_file as task_run_file
from tests.trainer.tinyrun import execute

pytestmark = pytest.mark.long
EXAMPLE = "text"
END = 2
"""The tiny tokenizer's end token; a byte is one token of its own."""


def chapters(count: int, start: int) -> list[dict[str, Any]]:
    """Texts that can be learned, of many lengths."""
    return [
        {"text": f"Chapter {n}. " + "It rains, and then it stops. " * (1 + n % 3)} for n in range(start, start + count)
    ]


TEXTS = TaskCase(EXAMPLE, "llama", chapters, "AutoModelForCausalLM")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The example on a tiny model that knows no chat."""
    folder = tmp_path_factory.mktemp("text")
    run = task_run_file(folder, TEXTS, packing=True, maxLength=128)
    for file in ("chat_template.jinja", "tokenizer_config.json"):
        if (folder / "model" / file).exists():
            text = (folder / "model" / file).read_text()
            (folder / "model" / file).unlink()
            if file.endswith("json"):
                (folder / "model" / file).write_text(json.dumps({**json.loads(text), "chat_template": None}))
    return folder, execute(run, folder / "work")


def test_every_token_is_trained(finished: tuple[Path, Outcome]) -> None:
    """As many as there are bytes: the first byte follows nothing, the end follows the last."""
    _, outcome = finished
    assert outcome.dataset is not None
    texts = [str(row["text"]).encode() for row in chapters(24, 0)]
    assert outcome.dataset.format == "Text"
    assert outcome.dataset.tokens == sum(len(text) + 1 for text in texts)
    assert outcome.dataset.trained_tokens == sum(map(len, texts))


def test_plain_peft_continues_texts_better(finished: tuple[Path, Outcome]) -> None:
    """The loss before and after, one text at a time, without packs and pads: transformers and peft alone."""
    folder, outcome = finished
    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    assert tokenizer.chat_template is None
    plain = PeftModel.from_pretrained(plain_base(folder / "model", {"type": "QLoRA"}), folder / "out").eval()
    after = _loss(plain, tokenizer)
    with plain.disable_adapter():
        before = _loss(plain, tokenizer)
    assert (before, after) == pytest.approx((outcome.loss_before, outcome.loss_after), abs=1e-4)
    assert after < before - 0.5


def test_the_example_is_of_this_task() -> None:
    """It is run here, for it has no metric beside the loss; test_tasks.py runs the others."""
    assert blocks(EXAMPLE)["task"] == {"type": "CausalLM"}
    assert blocks(EXAMPLE)["dataset"]["format"] == "Text"
    assert EXAMPLE not in {case.example for case in CASES.values()}


def _loss(plain: Any, tokenizer: Any) -> float:
    total, count = 0.0, 0
    for row in chapters(9, 100):
        ids = [*tokenizer.encode(row["text"], add_special_tokens=False), END]
        assert len(ids) == len(row["text"]) + 1
        with torch.inference_mode():
            logits = plain(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        total -= sum(float(logits[place, token]) for place, token in enumerate(ids[1:]))
        count += len(ids) - 1
    return total / count
