"""A dataset's URI names a file, all files below a prefix, or those that a pattern matches; in name order."""

import hashlib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Storage
from finetune_trainer.data.containers import reads
from finetune_trainer.errors import RunError
from finetune_trainer.storage import Entry, open_store
from finetune_trainer.storage.fetch import FetchedFiles, fetch_files
from finetune_trainer.storage.select import select

TREE = {
    "part-2.jsonl.gz": b"2",
    "part-10.jsonl.gz": b"10",
    "part-1.jsonl": b"1",
    "deep/er/part-3.jsonl": b"3",
    "deep/part-4.parquet": b"4",
    "README.md": b"words",
    "_SUCCESS.json": b"{}",
    ".cache/part-5.jsonl": b"5",
    "other/rows.txt": b"text",
}
CASES = {
    "part-1.jsonl": ["part-1.jsonl"],
    "README.md": ["README.md"],
    "": ["deep/er/part-3.jsonl", "deep/part-4.parquet", "part-1.jsonl", "part-10.jsonl.gz", "part-2.jsonl.gz"],
    "deep/": ["er/part-3.jsonl", "part-4.parquet"],
    "part-*.jsonl.gz": ["part-10.jsonl.gz", "part-2.jsonl.gz"],
    "part-?.jsonl*": ["part-1.jsonl", "part-2.jsonl.gz"],
    "deep/*/part-*": ["er/part-3.jsonl"],
    "deep/*": ["part-4.parquet"],
    "deep/**": ["er/part-3.jsonl", "part-4.parquet"],
    "**/part-*.jsonl": ["deep/er/part-3.jsonl", "part-1.jsonl"],
    "*/rows.txt": ["other/rows.txt"],
}


def fetch(uri: str, target: Path, storage: Storage | None = None) -> FetchedFiles:
    """Fetch what a URI names."""
    return fetch_files(uri, storage or Storage(), target, lambda _: None, reads)


def check(base: str, target: Path, storage: Storage | None = None) -> None:
    """Every case brings exactly its files, with their content, in order; the digest is one of the digests."""
    for number, (path, expected) in enumerate(CASES.items()):
        fetched = fetch(f"{base}/{path}", target / str(number), storage)
        assert list(fetched.files) == expected, path
        assert fetched.left_alone == (("README.md", "other/rows.txt") if path == "" else ()), path
        folder = "" if "/" not in path or path.startswith("*") else path.split("/", maxsplit=1)[0] + "/"
        contents = [TREE[folder + name] for name in expected]
        assert [file.path.read_bytes() for file in fetched.files.values()] == contents
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        together = hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()
        assert fetched.sha256 == (digests[0] if len(digests) == 1 else together)


def test_files_of_a_folder(tmp_path: Path) -> None:
    """On this machine, and on a mounted claim, which is read the same way."""
    for name, content in TREE.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(content)
    check(f"file://{tmp_path}/tree", tmp_path / "target")


def test_files_of_a_bucket(s3_storage: Storage, s3_uri: str, tmp_path: Path) -> None:
    """In a real bucket, where folders are only a part of names; nothing found says what is there."""
    store = open_store(s3_uri, s3_storage)
    for name, content in TREE.items():
        store.write(name, content)
    check(s3_uri, tmp_path / "target", s3_storage)
    for path, there in (("nothing-*.csv", "part-1.jsonl"), ("other/", "rows.txt"), ("none/", "Nothing is below")):
        with pytest.raises(RunError, match=r"names no file with rows") as caught:
            fetch(f"{s3_uri}/{path}", tmp_path / "none", s3_storage)
        assert caught.value.reason is Reason.DATASET_NOT_FOUND
        assert there in caught.value.hint
    with pytest.raises(RunError) as caught:
        fetch("s3://no-such-bucket/rows/", tmp_path / "none", s3_storage)
    assert caught.value.reason is Reason.BUCKET_NOT_FOUND


@pytest.mark.parametrize("uri", ["s3://datasets", "pvc://claim"])
def test_a_bucket_is_no_file(uri: str, tmp_path: Path) -> None:
    """A URI that stops at the bucket names no file; with a slash at the end it would name all of them."""
    with pytest.raises(RunError, match="names no file") as caught:
        fetch(uri, tmp_path)
    assert caught.value.reason is Reason.DATASET_NOT_FOUND


paths = st.lists(st.text(alphabet="ab.-", min_size=1, max_size=4), min_size=1, max_size=3).map("/".join)
patterns = st.lists(st.text(alphabet="ab-?", max_size=3).map("*{}".format), min_size=1, max_size=3).map("/".join)


@given(pattern=patterns, names=st.lists(paths, max_size=8))
def test_patterns_are_those_of_a_shell(pattern: str, names: list[str]) -> None:
    """A pattern matches part by part as fnmatch does, and never what is hidden."""
    expected = [
        name
        for name in sorted(names)
        if name.count("/") == pattern.count("/")
        and all(map(fnmatchcase, name.split("/"), pattern.split("/")))
        and not any(part.startswith(".") for part in name.split("/"))
    ]
    chosen = select(f"s3://bucket/{pattern}")
    assert chosen.folder == "s3://bucket"
    assert [entry.path for entry in chosen.files([Entry(name, 1) for name in names], reads)] == expected
