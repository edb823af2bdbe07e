"""Tiny models of other kinds than the chat model, random and the same each time, and rows that they can learn from."""

from pathlib import Path
from typing import Any

from tests.tiny import tiny_tokenizer

ENCODER_TOKENS = {"cls_token": "<|im_start|>", "sep_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
START, END, PAD = 1, 2, 0
Row = dict[str, Any]


def encoder_tokenizer() -> Any:
    """Bytes, as `[CLS] text [SEP]` and `[CLS] text [SEP] pair [SEP]` with segments 0 and 1, as BERT has them."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    inner = tiny_tokenizer().backend_tokenizer
    inner.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        pair="<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1",
        special_tokens=[("<|im_start|>", START), ("<|im_end|>", END)],
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **ENCODER_TOKENS)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def seq2seq_tokenizer() -> Any:
    """Bytes, with the end token after each text, as T5 has it."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    inner = tiny_tokenizer().backend_tokenizer
    inner.post_processor = TemplateProcessing(single="$A <|im_end|>", special_tokens=[("<|im_end|>", END)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def save_model(kind: str, folder: Path) -> Path:
    """Write a model without any task's head: `bert`, `distilbert`, `t5`, or `llama`, which has no pad in its config."""
    import torch
    from transformers import (
        BertConfig,
        BertModel,
        DistilBertConfig,
        DistilBertModel,
        LlamaConfig,
        LlamaForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    torch.manual_seed(0)
    if kind == "bert":
        model: Any = BertModel(
            BertConfig(
                vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                max_position_embeddings=128, pad_token_id=PAD, initializer_range=0.1,
            )
        )  # fmt: skip
    elif kind == "distilbert":
        model = DistilBertModel(
            DistilBertConfig(
                vocab_size=320, dim=64, hidden_dim=128, n_layers=2, n_heads=4, max_position_embeddings=128,
                pad_token_id=PAD, initializer_range=0.1,
            )
        )  # fmt: skip
    elif kind == "t5":
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=320, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, pad_token_id=PAD,
                eos_token_id=END, decoder_start_token_id=PAD, initializer_factor=0.5,
            )
        )  # fmt: skip
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=256, eos_token_id=END, initializer_range=0.1,
            )
        )  # fmt: skip
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer = {"t5": seq2seq_tokenizer, "llama": tiny_tokenizer}.get(kind, encoder_tokenizer)()
    tokenizer.save_pretrained(folder)
    return folder


def labelled_texts(count: int, start: int = 0) -> list[Row]:
    """The word tells the label; texts have different lengths."""
    words = (("fine", "positive"), ("awful", "negative"), ("so-so", "neutral"))
    return [
        {"text": f"{'It was ' * (n % 3)}{words[n % 3][0]} {n}", "label": words[n % 3][1]}
        for n in range(start, start + count)
    ]


def labelled_pairs(count: int, start: int = 0) -> list[Row]:
    """Two texts that are the same or not."""
    texts = ("red", "green apple", "blue")
    return [
        {"text": texts[n % 3], "text_pair": texts[(n + n // 3 % 2) % 3], "label": n // 3 % 2}
        for n in range(start, start + count)
    ]


def tagged_words(count: int, start: int = 0) -> list[Row]:
    """Numbers and names among other words."""
    names = ("Ann", "Bob", "Cleo")
    return [
        {
            "tokens": ["Give", str(n), "to", names[n % 3], *["now"] * (n % 2)],
            "tags": ["O", "NUM", "O", "PER", *["O"] * (n % 2)],
        }
        for n in range(start, start + count)
    ]


def translations(count: int, start: int = 0) -> list[Row]:
    """The target repeats the source's number."""
    return [
        {"source": f"{'please ' * (n % 3)}say {n}", "target": f"{n} it is{'!' * (n % 2)}"}
        for n in range(start, start + count)
    ]


def long_questions(count: int, start: int = 0) -> list[Row]:
    """The same in texts of one to five windows of 40 tokens; in some the answer lies across an edge."""
    rows = questions(count, start)
    for n, row in enumerate(rows, start):
        before, after = "oh " * (n * 5 % 12), " dear" * (n * 3 % 7)
        row["context"] = f"{before}{row['context']}{after}"
        row["answers"]["answer_start"] = [place + len(before) for place in row["answers"]["answer_start"]]
    return rows


def questions(count: int, start: int = 0) -> list[Row]:
    """The answer is the number in the context, of three digits; it stands in one of three places."""
    rows = []
    for n in range(start, start + count):
        number = str(100 + 7 * n)
        context = f"{'Well, ' * (n % 3)}{number} coins."
        place = context.index(number)
        rows.append(
            {
                "question": "How many?",
                "context": context,
                "answers": {"text": [number, f"{number} coins"], "answer_start": [place, place]},
            }
        )
    return rows
