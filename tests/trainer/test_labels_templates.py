"""Exactly the assistant's tokens and the turn's end token are trained, whatever the template and the content."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune_trainer.data.findings import RowError
from finetune_trainer.data.rows import Message
from finetune_trainer.data.tokens import IGNORED
from tests.trainer.templates import TEMPLATES, chat, label, tokenizer, trained_texts

PLAIN = {name: tokenizer(template) for name, template in TEMPLATES.items()}
TRIMMING = {name: tokenizer(template, trims_offsets=True) for name, template in TEMPLATES.items()}
MARKED = {name: tokenizer(template, markers=True) for name, template in TEMPLATES.items()}

contents = st.text(
    alphabet=st.one_of(st.sampled_from(" \n\tab.#[]"), st.characters(exclude_categories=["Cs"])), max_size=20
)
exchanges = st.lists(st.tuples(contents, contents), min_size=1, max_size=3)


def expected_texts(name: str, messages: Sequence[Message]) -> list[str]:
    """What the template must make of the assistant's turns, by hand."""
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if name == "ChatML":
        return [answer + "<|im_end|>" for answer in answers]
    if name == "Llama 3":
        return [answer.strip() + "<|eot_id|>" for answer in answers]
    if name == "strips whitespace":
        return [answer.strip() + "</s>" for answer in answers]
    return [f" {answer}</s>" for answer in answers]


@pytest.mark.parametrize("name", TEMPLATES)
@given(pairs=exchanges)
@settings(max_examples=40, deadline=None)
def test_labels_are_those_of_generation_markers(name: str, pairs: list[tuple[str, str]]) -> None:
    """The mask that transformers makes from markers in the template is ours, which needs no markers.

    Where a token reaches over the border the markers' mask trains a part of the prompt; ours cuts the text there, and
    the law that holds for both kinds is the text of what is trained.
    """
    messages = chat(pairs)
    row = label(PLAIN[name], messages)
    assert trained_texts(PLAIN[name], row) == expected_texts(name, messages)
    marked = MARKED[name].apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    if marked["input_ids"] == row.input_ids.tolist():
        assert [int(mark != IGNORED) for mark in row.labels.tolist()] == marked["assistant_masks"]
    kept = row.labels != IGNORED
    assert (row.labels[kept] == row.input_ids[kept]).all()


@pytest.mark.parametrize("name", TEMPLATES)
@given(pairs=exchanges)
@example(pairs=[("", " ")])
@settings(max_examples=25, deadline=None)
def test_offsets_without_blanks_change_nothing(name: str, pairs: list[tuple[str, str]]) -> None:
    """A tokenizer whose offsets leave out leading blanks gets the same labels."""
    plain, trimming = label(PLAIN[name], chat(pairs)), label(TRIMMING[name], chat(pairs))
    assert trimming.input_ids.tolist() == plain.input_ids.tolist()
    assert trimming.labels.tolist() == plain.labels.tolist()


@pytest.mark.parametrize("answer", ["\n\nHello", "\n", "\n\n", " leading", "  \n x"])
def test_an_answer_that_melts_into_the_prompt_is_cut_off_it(answer: str) -> None:
    """No token holds both prompt and answer: in use the prompt is tokenised alone."""
    fast = PLAIN["ChatML"]
    messages = chat([("Hi", answer)])
    row = label(fast, messages)
    prompt = fast.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    prompt_ids = fast.encode(prompt, add_special_tokens=False)
    assert row.input_ids[: len(prompt_ids)].tolist() == prompt_ids
    assert (row.labels[: len(prompt_ids)] == IGNORED).all()
    assert trained_texts(fast, row) == [answer + "<|im_end|>"]


@pytest.mark.parametrize("tokenizers", [PLAIN, TRIMMING])
def test_a_blank_at_the_end_of_the_prompt_stays_there(tokenizers: dict[str, Any]) -> None:
    """A blank that the template writes melts into the answer's first token, even where offsets do not show it."""
    fast = copy.deepcopy(tokenizers["ChatML"])
    fast.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    row = label(fast, chat([("Hi", "the dog")]))
    prompt_ids = fast.encode("user: Hi</s>assistant: ", add_special_tokens=False)
    assert row.input_ids[: len(prompt_ids)].tolist() == prompt_ids
    assert trained_texts(fast, row) == ["the dog</s>"]


def test_only_the_completions_turns_are_trained() -> None:
    """Assistant turns of a conversational prompt are context."""
    messages = chat([("a", "shot"), ("b", "answer")])
    row = label(PLAIN["ChatML"], messages, trained_from=2)
    assert trained_texts(PLAIN["ChatML"], row) == ["answer<|im_end|>"]


def test_a_template_without_end_token_trains_its_plain_text_end() -> None:
    """Where plain text ends a turn, the model has to learn that text to stop."""
    fast = tokenizer("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n---\n' }}{% endfor %}"
                     "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")  # fmt: skip
    assert trained_texts(fast, label(fast, chat([("a", "b")]))) == ["b\n---\n"]


COUNTS = (
    "{% for m in messages %}{{ m['role'] + m['content'] + loop.length | string }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
)
THINKS_LAST = (
    "{% for m in messages %}{% if m['role'] == 'assistant' and loop.last %}{{ 'THINK' }}{% endif %}{{ m['content'] }}"
    "{% endfor %}"
)
MUTE = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
SYSTEM = [{"role": "system", "content": "s"}, *chat([("a", "b")])]


@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        (TEMPLATES["Mistral, no system role"], SYSTEM, "Only user and assistant roles are supported!"),
        (COUNTS, chat([("a", "b")]), "before this turn differently"),
        (THINKS_LAST, chat([("a", "b"), ("c", "d")]), "once more messages follow"),
        (MUTE, chat([("a", "b")]), "trains nothing"),
        (TEMPLATES["ChatML"], chat([("a", "b")])[1:], "starts with an assistant turn"),
    ],
)
def test_refuses_what_cannot_be_labelled(template: str, messages: list[Message], words: str) -> None:
    """A template that breaks the prefix law, or refuses the row, ends in a reason and never in a guess."""
    with pytest.raises(RowError, match=words):
        label(tokenizer(template.replace("<G>", "").replace("</G>", "")), messages)
