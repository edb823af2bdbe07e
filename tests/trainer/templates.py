"""Chat templates as models have them, a real tokenizer for each, and our labels of a conversation."""

import copy
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from finetune_api.v1alpha1 import TrainOn
from finetune_trainer.data.findings import RowError
from finetune_trainer.data.formats.chat import conversation, messages_of
from finetune_trainer.data.labels import render_chat, renderer
from finetune_trainer.data.rows import Message, Tools
from finetune_trainer.data.tokens import IGNORED, Labelled, Labeller, TokenRow

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

# <G> and </G> become generation markers for the independent computation, and nothing for ours.
TEMPLATES = {
    "ChatML": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
        "<G>{{ m['content'] + '<|im_end|>' }}</G>{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "Llama 3": (
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}{% if m['role'] == 'assistant' %}"
        "<G>{{ m['content'] | trim + '<|eot_id|>' }}</G>{% else %}{{ m['content'] | trim + '<|eot_id|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "Mistral, no system role": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}<G>{{ ' ' + m['content'] + eos_token }}</G>"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    ),
    "strips whitespace": (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '### Response:\n' }}"
        "<G>{{ m['content'].strip() + eos_token }}</G>{{ '\n\n' }}"
        "{% else %}{{ '### Instruction:\n' + m['content'].strip() + '\n\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
    ),
}
CORPUS = [
    "The quick brown fox jumps over the lazy dog.\n\nHello, how are you today?\n\n\n  I am fine,   thank you.",
    '{"name": "value", "list": [1, 2, 3]}\n',
    "über naïve café 北京 日本語 😀😀 \t\ttabs",
    "### Response:\n\n### Instruction:\n",
] * 5  # fmt: skip


def tokenizer(template: str, *, markers: bool = False, trims_offsets: bool = False) -> Any:
    """A real byte-level BPE tokenizer of 400 tokens, trained here."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if trims_offsets:
        inner.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", additional_special_tokens=SPECIAL[2:]
    )
    opening, closing = ("{% generation %}", "{% endgeneration %}") if markers else ("", "")
    fast.chat_template = template.replace("<G>", opening).replace("</G>", closing)
    return fast


def chat(pairs: Sequence[tuple[str, str]]) -> list[Message]:
    """User and assistant in turn."""
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def labelled(
    fast: Any,
    messages: Sequence[Message],
    trained_from: int = 0,
    tools: Tools = None,
    train_on: TrainOn = TrainOn.ASSISTANT,
) -> Labelled:
    """Our labels and stop tokens; raises RowError."""
    row = conversation(messages_of(copy.deepcopy(list(messages)), "messages", {}), tools, trained_from)
    labeller, chat_ = Labeller(fast), render_chat(row, renderer(fast), train_on)
    result = labeller.chats([chat_], labeller.tokenize([chat_.text], begun=True))[0]
    if isinstance(result, RowError):
        raise result
    return result


def label(fast: Any, messages: Sequence[Message], trained_from: int = 0) -> TokenRow:
    """Our labels; raises RowError."""
    return labelled(fast, messages, trained_from).row


def trained_texts(fast: Any, row: TokenRow) -> list[str]:
    """The decoded runs of trained tokens."""
    runs: list[list[int]] = [[]]
    for token, mark in zip(row.input_ids.tolist(), row.labels.tolist(), strict=True):
        if mark == IGNORED:
            runs.append([])
        else:
            runs[-1].append(token)
    return [fast.decode(run, clean_up_tokenization_spaces=False) for run in runs if run]
