"""What becomes of rows that cannot be used, are too long, repeat each other, or never end: counted, never lost."""

import random
import re
from pathlib import Path

import pytest

from finetune_api.outcome import Reason
from tests.tiny import tiny_tokenizer
from tests.trainer.datafiles import ASSISTANT, END, TOKENIZER, USER, line, pair, prepared, refused

BAD = b'{"messages": "\xff"}\n'
SKIP = {"policy": "Skip", "maxPercent": 10}
FRAME = len(TOKENIZER.encode(f"<|im_start|>user\n{END}\n<|im_start|>assistant\n{END}\n"))
"""Tokens of a pair around its question and answer; every byte of these is one more."""


def test_skipped_rows_are_in_quarantine(tmp_path: Path) -> None:
    """Up to the limit the good rows are trained and each bad one is in quarantine with its place, reason and text."""
    files = {
        "a.jsonl": pair() * 4 + BAD + pair() * 14,
        "b.jsonl": line({"messages": [USER]}),
    }
    made = prepared(tmp_path, files, invalidRows=SKIP)
    assert made.places == [f"a.jsonl:{number}" for number in range(1, 20) if number != 5]
    assert made.dataset.facts.invalid == 2
    first, second = made.quarantine
    assert (first["file"], first["line"], first["kind"]) == ("a.jsonl", 5, "not UTF-8")
    assert first["raw"] == '{"messages": "\ufffd"}'
    assert (second["file"], second["line"], second["raw"]) == (
        "b.jsonl",
        1,
        line({"messages": [USER]}).decode().strip(),
    )
    assert "no assistant turn" in second["reason"]
    skipped = next(sentence for sentence in made.said if "skipped" in sentence)
    assert "2 of 20 rows" in skipped
    assert "b.jsonl:1" in skipped


@pytest.mark.parametrize(("good", "enough"), [(18, True), (17, False)])
def test_the_limit_is_exact(good: int, enough: bool, tmp_path: Path) -> None:
    """Ten percent of twenty rows are two; of nineteen they are not, and then every bad row is named in quarantine."""
    rows = {"r.jsonl": BAD + pair() * good + BAD}
    if enough:
        assert len(prepared(tmp_path, rows, invalidRows=SKIP).dataset.rows) == 18
        return
    error = refused(tmp_path, rows, invalidRows=SKIP)
    assert error.reason is Reason.TOO_MANY_INVALID_ROWS
    for words in ("more than 10 % of r.jsonl", "2 of 19 rows", "r.jsonl:1: ", "r.jsonl:19: "):
        assert words in error.message
    assert len((tmp_path / "rows/quarantine.jsonl").read_text().splitlines()) == 2


def test_no_quarantine_without_skip(tmp_path: Path) -> None:
    """A run that fails for its rows leaves them where they are, and an old quarantine does not stay."""
    prepared(tmp_path, {"r.jsonl": pair() * 9 + BAD}, invalidRows=SKIP)
    assert (tmp_path / "rows/quarantine.jsonl").exists()
    refused(tmp_path, {"r.jsonl": pair() * 9 + BAD})
    assert not (tmp_path / "rows/quarantine.jsonl").exists()


def test_all_rows_skipped(tmp_path: Path) -> None:
    """A hundred percent may be lost, but then nothing is left to train."""
    error = refused(
        tmp_path, {"r.jsonl": line({"messages": [USER]}) * 3}, invalidRows={"policy": "Skip", "maxPercent": 100}
    )
    assert error.reason is Reason.EMPTY_DATASET
    assert "all 3 rows were skipped" in error.message


def test_many_rows_keep_their_order(tmp_path: Path) -> None:
    """Over several batches and files, with bad rows in between, each row keeps its place."""
    numbers = range(1, 1301)
    lines = [BAD if number % 97 == 0 else pair("a", str(number)) for number in numbers]
    files = {"a.jsonl": b"".join(lines[:700]), "b.jsonl": b"", "c.jsonl": b"".join(lines[700:])}
    made = prepared(tmp_path, files, invalidRows=SKIP)
    kept = [number for number in numbers if number % 97]
    assert [int(trained.removesuffix(END)) for _, trained in made.texts] == kept
    assert made.places == [f"a.jsonl:{n}" if n <= 700 else f"c.jsonl:{n - 700}" for n in kept]
    assert [f"{entry['file'][0]}{entry['line']}" for entry in made.quarantine] == [
        f"a{n}" if n <= 700 else f"c{n - 700}" for n in numbers if n % 97 == 0
    ]
    assert any("1 files have no rows, for instance b.jsonl" in sentence for sentence in made.said)


LONG = pair("a", "b" * 50)
SHORT = pair("a", "bc")
LIMIT = FRAME + 10


def test_overlong_rows_are_dropped(tmp_path: Path) -> None:
    """The default leaves out what does not fit, and counts it; the longest row is told as it was."""
    made = prepared(tmp_path, {"r.jsonl": LONG + SHORT + LONG}, LIMIT)
    assert made.places == ["r.jsonl:2"]
    facts = made.dataset.facts
    assert (facts.dropped, facts.truncated, facts.longest) == (2, 0, FRAME + 51)
    assert f"2 rows left out because they are longer than {LIMIT} (r.jsonl:1, r.jsonl:3)" in made.said[-1]
    (folder := tmp_path / "many").mkdir()
    made = prepared(folder, {"a.jsonl": SHORT + LONG * 3, "b.jsonl": LONG * 9}, LIMIT)
    assert "(a.jsonl:2, a.jsonl:3, a.jsonl:4, b.jsonl:1, b.jsonl:2 ...)" in made.said[-1]


def test_overlong_rows_are_truncated(tmp_path: Path) -> None:
    """The start is kept, the lost end is counted, and a row that trains nothing any more is dropped."""
    rows = {
        "whole": SHORT,
        "cut in the answer": LONG,
        "cut in the question": pair("a" * 90, "b"),
        "cut behind the last answer": line(
            {"messages": [USER, ASSISTANT, {**USER, "content": "c" * 60}]}
        ),
    }  # fmt: skip
    made = prepared(tmp_path, {"r.jsonl": b"".join(rows.values())}, LIMIT, overlong="Truncate")
    assert made.places == ["r.jsonl:1", "r.jsonl:2", "r.jsonl:4"]
    question = "<|im_start|>user\na" + END + "\n<|im_start|>assistant\n"
    cut = "b" * (LIMIT - len(TOKENIZER.encode(question)))
    behind = question + "b" + END + "\n<|im_start|>user\n" + "c" * 60
    assert made.texts[1:] == [(question + cut, cut), (decode_start(behind), "b" + END)]
    facts = made.dataset.facts
    assert (facts.dropped, facts.truncated, facts.unfinished) == (1, 2, 1)
    assert "2 rows cut there, 1 of which lost their end (r.jsonl:2, r.jsonl:4)" in made.said[-1]
    assert "1 rows train no token that ends a turn" in made.said[-1]


def decode_start(text: str) -> str:
    """The first LIMIT tokens of a text."""
    return str(TOKENIZER.decode(TOKENIZER.encode(text)[:LIMIT], clean_up_tokenization_spaces=False))


def test_a_cut_answer_is_unfinished_whatever_ends_it(tmp_path: Path) -> None:
    """Of a template that ends a turn with plain text the last of it is lost; what is cut behind the answer is not."""
    plain = tiny_tokenizer()
    plain.chat_template = (
        "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    behind = line({"messages": [USER, ASSISTANT, {**USER, "content": "c" * 60}]})
    rows = {"r.jsonl": pair("a", "b") + pair("a", "b" * 60) + behind}
    made = prepared(tmp_path, rows, 40, overlong="Truncate", tokenizer=plain, trains=False)
    assert (made.dataset.facts.truncated, made.dataset.facts.unfinished) == (2, 1)


def test_overlong_rows_may_fail_the_run(tmp_path: Path) -> None:
    """With Fail each of them is named, whatever the policy for invalid rows."""
    error = refused(tmp_path, {"r.jsonl": SHORT * 20 + LONG}, LIMIT, overlong="Fail", invalidRows=SKIP)
    assert error.reason is Reason.INVALID_DATASET
    assert f"r.jsonl:21: has {FRAME + 51} tokens, over maxLength {LIMIT}" in error.message


@pytest.mark.parametrize("overlong", ["Drop", "Truncate"])
def test_nothing_left_is_an_empty_dataset(overlong: str, tmp_path: Path) -> None:
    """Where no row fits, the message has the lengths to choose a limit by."""
    error = refused(tmp_path, {"r.jsonl": pair("a" * 80, "b") + pair("a" * 90, "b")}, LIMIT, overlong=overlong)
    assert error.reason is Reason.EMPTY_DATASET
    assert f"longest has {FRAME + 91} tokens, the shortest {FRAME + 81}" in error.message


def test_duplicates_are_counted_and_kept(tmp_path: Path) -> None:
    """What is the same token by token, trained alike, is a duplicate; the order of keys is not looked at."""
    turned = b'{"messages": [{"content": "a", "role": "user"}, {"content": "b", "role": "assistant"}]}\n'
    shot = line({"messages": [USER, ASSISTANT, USER, ASSISTANT]})
    muted = line({"messages": [USER, {**ASSISTANT, "weight": 0}, USER, ASSISTANT]})
    made = prepared(tmp_path, {"r.jsonl": pair() + turned + pair("a", "c") + pair() + shot + muted})
    assert len(made.dataset.rows) == 6
    assert made.dataset.facts.duplicates == 2
    assert re.search(r"2 rows repeat an earlier one and are kept \(r\.jsonl:\d+, r\.jsonl:\d+\)", made.said[-1])


def test_lengths_are_told(tmp_path: Path) -> None:
    """The percentiles are lengths that rows have: the smallest that so many percent do not exceed."""
    lengths = list(range(1, 201))
    random.Random(0).shuffle(lengths)
    made = prepared(tmp_path, {"r.jsonl": b"".join(pair("", "b" * length) for length in lengths)}, 10_000)
    facts = made.dataset.facts
    assert (facts.p50, facts.p95, facts.p99, facts.longest) == (FRAME + 100, FRAME + 190, FRAME + 198, FRAME + 200)
    assert made.dataset.rows.lengths.tolist() == [FRAME + length for length in lengths]
    assert facts.tokens == sum(FRAME + length for length in lengths)
    assert facts.trained_tokens == sum(length + 1 for length in lengths)


def test_rows_that_never_stop_are_refused(tmp_path: Path) -> None:
    """Where no row trains a token that ends a turn, the model would never stop; one such row is enough."""
    endless = tiny_tokenizer()
    endless.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ':' + m['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}"
    )
    error = refused(tmp_path, {"r.jsonl": pair() * 3}, tokenizer=endless)
    assert error.reason is Reason.INVALID_DATASET
    assert "would never stop" in error.message
    assert len(prepared(tmp_path, {"r.jsonl": pair()}, tokenizer=endless, trains=False).dataset.rows) == 1
    cut = {"r.jsonl": LONG * 3}
    assert "would never stop" in refused(tmp_path, cut, LIMIT, overlong="Truncate").message
    assert len(prepared(tmp_path, {"r.jsonl": LONG + SHORT}, LIMIT, overlong="Truncate").dataset.rows) == 2
    blank = tiny_tokenizer()
    blank.add_tokens(["\n"])
    blank.chat_template = endless.chat_template
    assert "would never stop" in refused(tmp_path, {"r.jsonl": pair() * 3}, tokenizer=blank).message
    ids = TOKENIZER.encode("hello")
    assert "would never stop" in refused(tmp_path, {"r.jsonl": line({"input_ids": ids})}).message
    prepared(tmp_path, {"r.jsonl": line({"input_ids": [*ids, TOKENIZER.eos_token_id]})})
