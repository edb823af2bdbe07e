"""Models and datasets arrive whole and safe, or the reason says what is wrong with them."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Model, Storage
from finetune_trainer.errors import RunError
from finetune_trainer.storage import Entry, choose, open_store
from finetune_trainer.storage.fetch import fetch_file, fetch_model
from finetune_trainer.storage.local import LocalStore

GOOD = {"config.json": b"{}", "tokenizer.json": b"{}", "chat_template.jinja": b"x", "model.safetensors": b"weights"}


class Bench:
    """A model prefix in a folder, and the folder it is fetched into."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "source"
        self.target = folder / "target"
        self.said: list[str] = []

    def put(self, files: dict[str, bytes]) -> None:
        """Write files of the model."""
        for name, content in files.items():
            (self.source / name).parent.mkdir(parents=True, exist_ok=True)
            (self.source / name).write_bytes(content)

    def fetch(self) -> dict[str, bytes]:
        """Fetch the model; returns the files a loader would see."""
        model = Model.model_validate({"uri": f"file://{self.source}"}, context={"local": True})
        fetch_model(model, Storage(), self.target, self.said.append)
        return {file.name: file.read_bytes() for file in self.target.iterdir() if not file.name.startswith(".")}

    def refused(self) -> RunError:
        """Fetch the model in vain."""
        with pytest.raises(RunError) as caught:
            self.fetch()
        return caught.value


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A place to work."""
    return Bench(tmp_path)


def test_only_safe_files(bench: Bench) -> None:
    """Weights as safetensors, configuration and tokenizer are taken; pickle, code and sub-folders never."""
    bench.put(GOOD)
    bench.put({"pytorch_model.bin": b"", "modeling.py": b"", "onnx/model.safetensors": b"", "optimizer.pt": b""})
    bench.put({"consolidated.safetensors": b"again"})
    assert bench.fetch() == GOOD
    assert bench.said[-1].endswith("of 0.0 MB")


def test_from_s3(s3_storage: Storage, s3_uri: str, tmp_path: Path) -> None:
    """A model and a file come from a real S3 server, too, and a missing model names its URI."""
    store = open_store(s3_uri, s3_storage)
    for name, content in GOOD.items():
        store.write(f"model/{name}", content)
    assert fetch_model(Model(uri=f"{s3_uri}/model"), s3_storage, tmp_path / "model", lambda _: None) == ""
    assert (tmp_path / "model/model.safetensors").read_bytes() == b"weights"
    fetched = fetch_file(f"{s3_uri}/model/config.json", s3_storage, tmp_path / "data/rows", lambda _: None)
    assert fetched.sha256 == hashlib.sha256(b"{}").hexdigest()
    with pytest.raises(RunError, match=f"{s3_uri}/gone has no config.json") as caught:
        fetch_model(Model(uri=f"{s3_uri}/gone"), s3_storage, tmp_path / "gone", lambda _: None)
    assert caught.value.reason is Reason.MODEL_NOT_FOUND


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model-q4.gguf", "model.pt"])
def test_unsafe_weights(bench: Bench, name: str) -> None:
    """A model that has only pickled or quantized weights is unsafe, with a remedy."""
    bench.put({"config.json": b"{}", name: b"x"})
    error = bench.refused()
    assert error.reason is Reason.UNSAFE_MODEL
    assert name in error.message
    assert "save_pretrained" in error.hint


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_incomplete_model(bench: Bench, lost: str) -> None:
    """A prefix without configuration or weights is no model, and what it holds is told."""
    bench.put({name: content for name, content in GOOD.items() if name != lost})
    error = bench.refused()
    assert error.reason is Reason.MODEL_NOT_FOUND
    assert "tokenizer.json" in error.message


def test_missing_shard(bench: Bench) -> None:
    """A shard that the index names and the prefix lacks is named."""
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    bench.put({"config.json": b"{}", "model-1.safetensors": b"1"})
    bench.put({"model.safetensors.index.json": json.dumps(index).encode()})
    error = bench.refused()
    assert error.reason is Reason.MODEL_NOT_FOUND
    assert "model-2.safetensors" in error.message


def test_second_run_is_quick(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is already here is not downloaded again, and what changed at the source is, whatever its size."""
    bench.put(GOOD)
    bench.fetch()
    asked: list[str] = []
    download = LocalStore.download
    monkeypatch.setattr(LocalStore, "download", lambda self, path, *a: (asked.append(path), download(self, path, *a)))
    bench.fetch()
    assert asked == []
    bench.put({"model.safetensors": b"WEIGHTS"})
    (bench.target / "tokenizer.json").write_bytes(b"cut")
    assert bench.fetch()["model.safetensors"] == b"WEIGHTS"
    assert sorted(asked) == ["model.safetensors", "tokenizer.json"]


def test_another_model(bench: Bench) -> None:
    """Files of another model and halves of a killed download do not stay in the folder."""
    bench.target.mkdir()
    for name in ("model-00001-of-00002.safetensors", ".model.safetensors.part.1a2b"):
        (bench.target / name).write_bytes(b"old")
    bench.put(GOOD)
    assert bench.fetch() == GOOD
    assert not list(bench.target.glob(".*part*"))


def test_manifest_beside_the_model(bench: Bench) -> None:
    """A file that differs from the manifest beside it fails with both digests, and does not count as here later."""
    right = {name: {"sha256": hashlib.sha256(content).hexdigest()} for name, content in GOOD.items()}
    bench.put({**GOOD, "manifest.json": json.dumps({"files": right}).encode()})
    assert bench.fetch() == GOOD
    bench.put({"model.safetensors": b"wEights"})
    error = bench.refused()
    assert error.reason is Reason.VERIFICATION_FAILED
    assert right["model.safetensors"]["sha256"] in error.message
    assert hashlib.sha256(b"wEights").hexdigest() in error.message
    assert not (bench.target / "model.safetensors").exists()
    assert bench.refused().reason is Reason.VERIFICATION_FAILED


def test_strange_manifest(bench: Bench) -> None:
    """Somebody else's manifest.json does not matter."""
    bench.put({**GOOD, "manifest.json": b"[]"})
    assert bench.fetch() == GOOD


def test_fetch_file(bench: Bench, tmp_path: Path) -> None:
    """A file comes with its digest; a missing one names its URI and what looks like it."""
    bench.put({"train.jsonl": b"{}\n", "eval.jsonl": b"{}\n", "train.jsonl.bak": b""})
    fetched = fetch_file(f"file://{bench.source}/train.jsonl", Storage(), tmp_path / "rows", bench.said.append)
    assert (fetched.path.read_bytes(), fetched.sha256) == (b"{}\n", hashlib.sha256(b"{}\n").hexdigest())
    uri = f"file://{bench.source}/trian.jsonl"
    with pytest.raises(RunError, match=f"{uri} does not exist") as caught:
        fetch_file(uri, Storage(), tmp_path / "rows2", bench.said.append)
    assert caught.value.reason is Reason.DATASET_NOT_FOUND
    assert "train.jsonl" in caught.value.hint


@pytest.mark.parametrize("uri", ["s3://datasets", "s3://datasets/"])
def test_bucket_is_no_file(uri: str, tmp_path: Path) -> None:
    """A URI that stops at the bucket names no file."""
    with pytest.raises(RunError, match="names no file") as caught:
        fetch_file(uri, Storage(), tmp_path / "rows", lambda _: None)
    assert caught.value.reason is Reason.DATASET_NOT_FOUND


NAMES = st.lists(st.sampled_from([*GOOD, "a/b.safetensors", "x.bin", "y.py", "z.pt", "../up.json", "w.gguf"]))


@given(NAMES)
def test_choice_is_closed(names: list[str]) -> None:
    """Whatever is listed: what is chosen lies at the prefix itself and is of a safe kind, or it is an error."""
    try:
        chosen = [entry.path for entry in choose.model_files("s3://b/p", [Entry(name, 1) for name in names])]
    except RunError as error:
        assert error.reason in (Reason.MODEL_NOT_FOUND, Reason.UNSAFE_MODEL)  # noqa: PT017 - either way is right
        assert "config.json" not in names or "model.safetensors" not in names
    else:
        assert set(chosen) <= set(GOOD)
        assert {"config.json", "model.safetensors"} <= set(chosen)
