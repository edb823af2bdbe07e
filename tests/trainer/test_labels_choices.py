"""What the job file or a row chooses to train is trained, and nothing else: tools, thinking, weights, trainOn."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.v1alpha1 import TrainOn
from finetune_trainer.data.findings import RowError
from finetune_trainer.data.rows import Message
from finetune_trainer.data.tokens import IGNORED, Labelled
from tests.trainer.templates import TEMPLATES, chat, labelled, tokenizer, trained_texts

AGENT = (
    "{% if tools %}{{ '<|im_start|>system\n' }}{% for tool in tools %}{{ (tool | tojson) + '\n' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}<G>"
    "{% if m['reasoning_content'] %}{{ '<think>' + m['reasoning_content'] + '</think>' }}{% endif %}{{ m['content'] }}"
    "{% for call in m['tool_calls'] or [] %}{{ '<call>' + call['function']['name'] + ' ' }}"
    "{{ (call['function']['arguments'] | tojson) + '</call>' }}{% endfor %}{{ '<|im_end|>' }}</G>"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN, MARKED = tokenizer(AGENT), tokenizer(AGENT, markers=True)
CHATML = tokenizer(TEMPLATES["ChatML"])
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
words = st.text(alphabet="abc 0.é北", max_size=12)
call = st.fixed_dictionaries({"a": words, "b": st.none() | st.integers(0, 99)})
turns = st.lists(
    st.one_of(
        words.map(lambda text: [{"role": "user", "content": text}]),
        words.map(lambda text: [{"role": "assistant", "content": "x" + text, "reasoning_content": text}]),
        st.tuples(call, words).map(
            lambda pair: [
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": pair[0]}}],
                },
                {"role": "tool", "name": "add", "content": pair[1]},
            ]
        ),
    ),
    min_size=1,
    max_size=4,
)


def untrained_text(fast: Any, row: Labelled) -> str:
    """The tokens without a loss, decoded together."""
    return str(fast.decode(row.input_ids[~row.trained].tolist(), clean_up_tokenization_spaces=False))


def as_text(messages: list[Message]) -> list[Message]:
    """The same messages with the arguments of calls as JSON text, as APIs send them."""
    copied: list[Message] = json.loads(json.dumps(messages))
    for message in copied:
        for one in message.get("tool_calls") or []:
            one["function"]["arguments"] = json.dumps(one["function"]["arguments"])
    return copied


@given(turns=turns)
@settings(max_examples=30, deadline=None)
def test_tools_calls_and_thinking_are_labelled_as_by_generation_markers(turns: list[list[Message]]) -> None:
    """Calls and thinking are trained, the tools' answers are not; arguments as JSON text are the same arguments."""
    messages = [{"role": "user", "content": "go"}, *(message for turn in turns for message in turn)]
    messages.append({"role": "assistant", "content": "done"})
    row = labelled(PLAIN, messages, tools=TOOLS)
    plain = [{**m, "content": m["content"] or ""} for m in messages]
    marked = MARKED.apply_chat_template(
        plain, tools=TOOLS, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert marked["input_ids"] == row.input_ids.tolist()
    assert marked["assistant_masks"] == row.trained.astype(int).tolist()
    end = PLAIN.convert_tokens_to_ids("<|im_end|>")
    assert row.stops.tolist() == [
        index for index, (token, mark) in enumerate(zip(marked["input_ids"], marked["assistant_masks"], strict=True))
        if mark and token == end
    ]  # fmt: skip
    again = labelled(PLAIN, as_text(messages), tools=TOOLS)
    assert again.input_ids.tolist() == row.input_ids.tolist()
    assert again.trained.tolist() == row.trained.tolist()


@given(answers=st.lists(st.tuples(words.map("x{}".format), st.sampled_from([None, 0, 1])), min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_weight_0_is_context(answers: list[tuple[str, int | None]]) -> None:
    """The tokens are those of the conversation without weights; a turn of weight 0 gives no loss, under All neither."""
    pairs = [(f"q{number}", text) for number, (text, _) in enumerate(answers)]
    plain, weighted = chat(pairs), chat(pairs)
    for message, (_, weight) in zip(weighted[1::2], answers, strict=True):
        if weight is not None:
            message["weight"] = weight
    kept = [text + "<|im_end|>" for text, weight in answers if weight != 0]
    if not kept:
        with pytest.raises(RowError, match="weight 0"):
            labelled(CHATML, weighted)
        return
    row = labelled(CHATML, weighted)
    assert row.input_ids.tolist() == labelled(CHATML, plain).input_ids.tolist()
    assert trained_texts(CHATML, row.row) == kept
    everything = labelled(CHATML, weighted, train_on=TrainOn.ALL)
    muted = "".join(text + "<|im_end|>\n" for text, weight in answers if weight == 0)
    assert untrained_text(CHATML, everything) == "<|im_start|>" + muted  # nothing predicts the first token


@given(pairs=st.lists(st.tuples(words, words.map("x{}".format)), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_last_assistant_and_all(pairs: list[tuple[str, str]]) -> None:
    """LastAssistant trains the last answer, All every token but the first; the tokens are the same."""
    row = labelled(CHATML, chat(pairs))
    last = labelled(CHATML, chat(pairs), train_on=TrainOn.LAST_ASSISTANT)
    everything = labelled(CHATML, chat(pairs), train_on=TrainOn.ALL)
    assert trained_texts(CHATML, last.row) == [pairs[-1][1] + "<|im_end|>"]
    assert everything.trained.tolist() == [False] + [True] * (len(row) - 1)
    assert everything.input_ids.tolist() == row.input_ids.tolist() == last.input_ids.tolist()
    assert (everything.row.labels[1:] == everything.input_ids[1:]).all()
    assert everything.row.labels[0] == IGNORED


def test_a_template_that_forgets_thinking_trains_the_last_turn() -> None:
    """Where thinking is cut from earlier turns, no text fits training all of them; the last one can be trained."""
    forgets = tokenizer(
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ 'A:' }}{% if loop.last %}"
        "{{ '<think>' + m['reasoning_content'] + '</think>' }}{% endif %}{{ m['content'] + eos_token }}"
        "{% else %}{{ 'U:' + m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
    )
    messages = [message | {"reasoning_content": "hm"} for message in chat([("a", "b"), ("c", "d")])]
    with pytest.raises(RowError, match="LastAssistant"):
        labelled(forgets, messages)
    row = labelled(forgets, messages, train_on=TrainOn.LAST_ASSISTANT)
    assert trained_texts(forgets, row.row) == ["<think>hm</think>d</s>"]


def test_last_assistant_of_weight_0_trains_nothing() -> None:
    """The last turn is the last turn, whatever its weight: no earlier one takes its place."""
    messages = chat([("a", "b"), ("c", "d")])
    messages[-1]["weight"] = 0
    with pytest.raises(RowError, match="trains nothing"):
        labelled(CHATML, messages, train_on=TrainOn.LAST_ASSISTANT)


def test_a_turn_that_ends_with_plain_text_has_no_stop() -> None:
    """A special token somewhere in the prompt, or one that text follows, ends no turn."""
    endless = tokenizer(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant: ' }}{% endif %}"
    )
    for train_on in TrainOn:
        row = labelled(endless, chat([("a", "b"), ("c", "d")]), train_on=train_on)
        assert row.trained.any()
        assert row.stops.tolist() == []


@pytest.mark.parametrize("added", ["\n", "\n\n", "</table>"])
def test_added_tokens_that_are_text_end_no_turn(added: str) -> None:
    """Many vocabularies have blanks and HTML as added tokens: no model stops there; text behind an end stays out."""
    fast = tokenizer(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ': ' + m['content'] + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant: ' }}{% endif %}"
    )
    fast.add_tokens([added])
    messages = chat([("a", "b"), ("c", "d</table>")])
    for train_on in TrainOn:
        assert labelled(fast, messages, train_on=train_on).stops.tolist() == []
    plain = labelled(CHATML, messages)
    fast.chat_template = CHATML.chat_template
    assert trained_texts(fast, labelled(fast, messages).row) == trained_texts(CHATML, plain.row)


def test_an_added_token_of_the_template_ends_a_turn() -> None:
    """Also where it was added without being special."""
    fast = tokenizer(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<end>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    fast.add_tokens(["<end>"])
    row = labelled(fast, chat([("a", "b")]))
    assert trained_texts(fast, row.row) == ["b<end>"]
    assert fast.convert_ids_to_tokens(row.input_ids[row.stops].tolist()) == ["<end>"]
