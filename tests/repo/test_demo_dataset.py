"""The laws of the demo's data: repeatable, answerable, and held-out rows that nothing in training gives away."""

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
NUMBERS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
UNITS = {"Mi": ("megabytes",), "Gi": ("gigabyte", "gigabytes")}


def load(name: str) -> ModuleType:
    """Import a script of the demo by its path."""
    spec = importlib.util.spec_from_file_location(f"demo_{name}", ROOT / "examples" / "demo" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """train.jsonl and eval.jsonl."""
    return load("dataset").write(tmp_path_factory.mktemp("demo"))


def rows(path: Path) -> list[tuple[str, dict[str, object]]]:
    """(request, parsed answer) of each row; the row is a system, a user and an assistant message."""
    found = []
    for line in path.read_text().splitlines():
        messages = json.loads(line)["messages"]
        assert [message["role"] for message in messages] == ["system", "user", "assistant"]
        found.append((messages[1]["content"], json.loads(messages[2]["content"])))
    return found


def wording(request: str, answer: dict[str, object]) -> str:
    """The request without anything that comes from the answer: what is left is the sentence around it."""
    count, memory = int(str(answer["replicas"])), str(answer["memory"])
    amounts = [f"{memory[:-2]} {unit}" for unit in UNITS[memory[-2:]]]
    values = [str(answer["image"]), str(answer["namespace"]), *amounts, NUMBERS[count - 2], str(count)]
    for value in sorted(values, key=len, reverse=True):
        request = re.sub(rf"\b{re.escape(value)}\b", "_", request, flags=re.IGNORECASE)
    return re.sub(r"_+", "_", request.lower())


def test_the_same_seed_gives_the_same_bytes(files: tuple[Path, Path], tmp_path: Path) -> None:
    """Two generations are equal byte for byte; another seed gives other rows."""
    dataset = load("dataset")

    assert [path.read_bytes() for path in dataset.write(tmp_path)] == [path.read_bytes() for path in files]
    assert dataset.generate(1) != dataset.generate(2)


def test_there_are_enough_rows_and_none_twice(files: tuple[Path, Path]) -> None:
    """A few hundred to train on, enough held-out ones for a verdict, all different."""
    train, held_out = map(rows, files)

    assert 200 <= len(train) <= 500
    assert len(held_out) >= 40
    assert len({request for request, _ in train + held_out}) == len(train) + len(held_out)


def test_every_answer_follows_from_its_request(files: tuple[Path, Path]) -> None:
    """The four fields, nothing else, each readable from the request: image, namespace, number, amount."""
    for request, answer in rows(files[0]) + rows(files[1]):
        assert list(answer) == ["image", "replicas", "namespace", "memory"]
        lower = request.lower()
        assert re.search(rf"\b{answer['image']}\b", lower)
        assert re.search(rf"\b{answer['namespace']}\b", lower)
        count = int(str(answer["replicas"]))
        assert re.search(rf"\b({count}|{NUMBERS[count - 2]})\b", lower)
        amount, unit = str(answer["memory"])[:-2], str(answer["memory"])[-2:]
        assert any(re.search(rf"\b{amount} {word}\b", lower) for word in UNITS[unit])


def test_held_out_wording_and_values_are_new(files: tuple[Path, Path]) -> None:
    """No held-out sentence, with its values taken out, is one of training; no held-out answer is one of training."""
    train, held_out = map(rows, files)
    trained_wordings = {wording(*row) for row in train}
    held_out_wordings = {wording(*row) for row in held_out}

    assert len(trained_wordings) >= 12
    assert len(held_out_wordings) >= 6
    assert not trained_wordings & held_out_wordings
    assert not {json.dumps(answer) for _, answer in train} & {json.dumps(answer) for _, answer in held_out}


def test_the_quickstart_holds_rows_of_this_generator(files: tuple[Path, Path]) -> None:
    """The few rows of the quickstart are the first of the demo's: one generator, one truth."""
    for path in files:
        few = (ROOT / "examples" / "quickstart" / path.name).read_text()
        assert few
        assert path.read_text().startswith(few)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"a":1}', True),
        (' { "a" : 1 }\n', True),
        ('{"a":1} and more', False),
        ('{"a":"1"}', False),
        ('{"a":1,"b":2}', False),
        ("", False),
        ('{"a":1', False),
    ],
)
def test_exact_match_is_equality_of_json(answer: str, right: bool) -> None:
    """Spaces do not matter, everything else does; what does not parse is wrong and no error."""
    assert load("score").equal(answer, '{"a":1}') is right
