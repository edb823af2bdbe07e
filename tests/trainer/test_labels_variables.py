"""Variables of the job reach the model's chat template, as what a person means by them."""

import json
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.v1alpha1 import DataFormat, Dataset
from finetune_trainer.data.encoder import row_encoder
from finetune_trainer.data.labels import render_chat, renderer
from finetune_trainer.data.options import Options
from finetune_trainer.data.rows import Conversation
from tests.tiny import tiny_tokenizer

THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not enable_thinking %}<think></think>{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}"
)


def conversation() -> Conversation:
    """A question and its answer."""
    messages = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    return Conversation(tuple(messages), (1,))


@pytest.mark.parametrize(("text", "thinks"), [("false", False), ("true", True), ("0", False), ("no", True)])
def test_a_switch_is_a_switch(text: str, thinks: bool) -> None:
    """`"false"` is false, not a text that happens to be true; what it makes the template write is not trained."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = THINKS
    spec = {"train": {"uri": "s3://data/rows.jsonl"}, "chatTemplateKwargs": {"enable_thinking": text}}
    encoder = row_encoder(Options(Dataset.model_validate(spec), 64), DataFormat.MESSAGES, tokenizer)
    chat = encoder.render(conversation())
    assert ("<think></think>" in chat.text) is not thinks
    ((start, end),) = chat.spans
    assert chat.text[start:end].strip() == "So.<|im_end|>"


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=8).filter(lambda text: not _is_json(text))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@given(VALUES)
def test_any_value_arrives_as_meant(value: Any) -> None:
    """What jinja makes of the value itself is what it makes of its text in the job."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ value is string }} {{ value }}" + THINKS
    text = value if isinstance(value, str) else json.dumps(value)
    chat = render_chat(conversation(), renderer(tokenizer, {"value": text}))
    assert chat.text.startswith(jinja2.Template("{{ value is string }} {{ value }}").render(value=value))
