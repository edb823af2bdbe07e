"""The demo's data: English requests for pods, and the JSON object each one means.

Made by a seeded generator, so the same seed gives the same bytes. Training and held-out requests share neither a
sentence template nor a combination of values: what the model gets right on the held-out ones it has not seen.

    python examples/demo/dataset.py FOLDER     writes FOLDER/train.jsonl and FOLDER/eval.jsonl
"""

import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SEED = 7
TRAIN_ROWS = 384
HELD_OUT_ROWS = 48
SYSTEM = "Reply in JSON."

TRAIN_TEMPLATES = (
    "Start {count} pods of {image} in {namespace} with {memory} each.",
    "Run {image} in {namespace}: {count} replicas, {memory} per pod.",
    "I need {count} copies of {image} in the {namespace} namespace, {memory} of memory each.",
    "Please deploy {image} to {namespace}, {count} times, {memory} of memory.",
    "Give {namespace} {count} {image} pods with {memory} of RAM.",
    "In {namespace}, launch {count} instances of {image}, limit {memory}.",
    "{count} {image} containers for {namespace}, each may use {memory}.",
    "Set up {image} for team {namespace}; {count} pods, {memory} memory.",
    "Bring up {count} of {image} under {namespace}, {memory} for each one.",
    "The namespace {namespace} wants {image}, {count} replicas at {memory}.",
    "With {memory} per pod, start {count} {image} in {namespace}.",
    "Scale {image} in {namespace} to {count} pods of {memory}.",
    "Put {count} {image} servers into {namespace} and allow {memory} for each.",
    "Image {image}, namespace {namespace}, {count} replicas, memory {memory}.",
    "Could you run {count} {image} workers for {namespace} with {memory} each?",
    "{namespace} needs pods with {memory} that run {image}, {count} in all.",
)
HELD_OUT_TEMPLATES = (
    "Spin up {count} {image} pods for {namespace}, {memory} apiece, please.",
    "We want {image} running in {namespace} as {count} replicas with {memory} of memory each.",
    "Can {namespace} get {count} instances of {image}? Each one takes {memory}.",
    "Create a deployment of {image} with {count} pods in namespace {namespace}; memory {memory}.",
    "Let there be {count} {image} replicas in {namespace}, every one with {memory}.",
    "Roll out {image} to {namespace} with {memory} per replica and {count} replicas.",
    "Make it {count} pods of {image} at {memory} each, inside {namespace}.",
    "{namespace} is short of {image}: add {count} pods, {memory} for every pod.",
)
IMAGES = (
    "nginx", "redis", "postgres", "httpd", "mysql", "rabbitmq", "memcached", "haproxy", "traefik", "grafana",
    "mongo", "kafka", "envoy", "vault", "etcd", "caddy",
)  # fmt: skip
NAMESPACES = (
    "shop", "billing", "search", "media", "web", "news", "orders", "staging", "payments", "tools",
    "games", "mail", "reports", "testing", "music", "travel",
)  # fmt: skip
# From two on.
COUNTS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
MEMORIES = (
    ("128 megabytes", "128Mi"),
    ("256 megabytes", "256Mi"),
    ("512 megabytes", "512Mi"),
    ("768 megabytes", "768Mi"),
    ("1 gigabyte", "1Gi"),
    ("2 gigabytes", "2Gi"),
    ("4 gigabytes", "4Gi"),
    ("8 gigabytes", "8Gi"),
)


@dataclass(frozen=True)
class Answer:
    """The object that a request means."""

    image: str
    replicas: int
    namespace: str
    memory: str

    def to_json(self) -> str:
        """Render compactly: every token of it is trained."""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True)
class Example:
    """A request and the one right answer."""

    request: str
    answer: Answer

    def messages(self) -> list[dict[str, str]]:
        """The row as a chat."""
        return [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": self.request},
            {"role": "assistant", "content": self.answer.to_json()},
        ]


def generate(seed: int = SEED) -> tuple[list[Example], list[Example]]:
    """Return the training and the held-out examples; no combination of values is in both."""
    chance = random.Random(seed)
    values = _distinct_values(chance)
    train = [_example(chance, TRAIN_TEMPLATES, n, next(values)) for n in range(TRAIN_ROWS)]
    held_out = [_example(chance, HELD_OUT_TEMPLATES, n, next(values)) for n in range(HELD_OUT_ROWS)]
    chance.shuffle(train)
    return train, held_out


def _distinct_values(chance: random.Random) -> Iterator[tuple[str, int, str, tuple[str, str]]]:
    """Yield combinations of image, count, namespace and memory, each at most once."""
    seen = set()
    while True:
        values = (
            chance.choice(IMAGES),
            chance.randrange(2, len(COUNTS) + 2),
            chance.choice(NAMESPACES),
            chance.choice(MEMORIES),
        )
        if values not in seen:
            seen.add(values)
            yield values


def _example(
    chance: random.Random, templates: Sequence[str], number: int, values: tuple[str, int, str, tuple[str, str]]
) -> Example:
    """Put values into a template; the templates take turns, the count is a word or a figure."""
    image, replicas, namespace, (spoken, quantity) = values
    count = COUNTS[replicas - 2] if chance.random() < 0.5 else str(replicas)
    request = templates[number % len(templates)].format(count=count, image=image, namespace=namespace, memory=spoken)
    return Example(request[0].upper() + request[1:], Answer(image, replicas, namespace, quantity))


def write(folder: Path) -> tuple[Path, Path]:
    """Write train.jsonl and eval.jsonl and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.jsonl", folder / "eval.jsonl"
    for path, examples in zip(paths, generate(), strict=True):
        path.write_text("".join(json.dumps({"messages": example.messages()}) + "\n" for example in examples))
    return paths


if __name__ == "__main__":
    print(*write(Path(sys.argv[1])), sep="\n")
