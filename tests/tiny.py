"""A chat model small enough to train in seconds: a two-layer Llama, a byte-level tokenizer, and rows to go with it."""

import json
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tiny_tokenizer() -> Any:
    """A tokenizer of bytes and three special tokens: a text's tokens can be counted by hand."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def save_tiny_model(folder: Path) -> Path:
    """Write a random model with its tokenizer, as safetensors, the same bytes each time; returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tiny_tokenizer().save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    return folder


def rows(count: int, start: int = 0) -> list[dict[str, object]]:
    """Chats that a tiny model can learn something from: the answer repeats the question's number."""
    return [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(start, start + count)
    ]


def jsonl(data: list[dict[str, object]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in data)
