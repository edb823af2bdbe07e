"""`finetune validate` gives each job and each problem its line, and an exit code that a pipeline can use."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune_cli.jobfile import read
from finetune_cli.main import app

JOB = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: %s}
spec:
  model: {uri: hf://owner/model}
  dataset: {train: {uri: %s}}
  output: {uri: s3://adapters/x}
"""


def verdict(path: Path, text: str, *more: str) -> tuple[int, str]:
    """Write the file, validate it, and return exit code and output."""
    path.write_text(text)
    result = CliRunner().invoke(app, ["validate", str(path), *more])
    return result.exit_code, result.output


def test_valid_jobs_are_named_and_the_exit_code_is_zero(tmp_path: Path) -> None:
    """Every job of every document gets `valid` and its name; other kinds are left out."""
    other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"
    text = "---\n".join([JOB % ("one", "s3://data/a.jsonl"), other, JOB % ("two", "s3://data/a.jsonl")])

    code, output = verdict(tmp_path / "job.yaml", text)

    assert code == 0
    assert [line.split()[0] for line in output.splitlines()] == ["valid", "valid"]
    assert "one" in output
    assert "two" in output


def test_a_problem_says_file_document_field_and_message(tmp_path: Path) -> None:
    """All problems are listed at once, each with all that is needed to find it; the exit code is 1."""
    bad = (JOB % ("two", "s3://data/a.jsonl")) + "  training: {learningRate: 2e-4, epoks: 3}\n"

    code, output = verdict(tmp_path / "job.yaml", "---\n".join([JOB % ("one", "s3://data/a.jsonl"), bad]))

    assert code == 1
    problems = output.splitlines()
    assert len(problems) == 2
    for problem, field, said in zip(
        sorted(problems), ("spec.training.epoks", "spec.training.learningRate"), ("unknown", "quotes"), strict=True
    ):
        assert problem.startswith("invalid")
        assert f"{tmp_path / 'job.yaml'}: document 2, {field}: " in problem
        assert said in problem


def test_one_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    """Each file gets its verdict, in order; one bad one is enough for exit code 1."""
    good = tmp_path / "good.yaml"
    good.write_text(JOB % ("fine", "s3://data/a.jsonl"))

    code, output = verdict(tmp_path / "bad.yaml", "a: [", str(good), str(tmp_path / "absent.yaml"))

    assert code == 1
    assert "not valid YAML" in output
    assert f"valid  {good}: fine" in output
    assert "absent.yaml cannot be read" in output


@pytest.mark.parametrize("uri", ["file:///data/rows.jsonl", "file://./rows.jsonl", "file://../rows.jsonl"])
def test_local_uris_are_valid_but_said_to_be_local(tmp_path: Path, uri: str) -> None:
    """file:// is for `finetune run`; the user hears that a cluster refuses it."""
    code, output = verdict(tmp_path / "job.yaml", JOB % ("here", uri))

    assert code == 0
    assert "a cluster refuses them" in output


def test_a_relative_path_without_a_dot_is_refused(tmp_path: Path) -> None:
    """file://rows.jsonl would name a host: it is a problem, not a guess."""
    code, output = verdict(tmp_path / "job.yaml", JOB % ("here", "file://rows.jsonl"))

    assert code == 1
    assert "spec.dataset.train.uri" in output


@pytest.mark.parametrize("path", ["rows/", "rows/part-*.jsonl", "rows.jsonl"])
def test_a_relative_prefix_or_pattern_stays_one(path: str, tmp_path: Path) -> None:
    """A path beside the job file becomes absolute and keeps what makes it a prefix or a pattern."""
    (tmp_path / "job.yaml").write_text(JOB % ("one", f"file://./{path}"))
    assert read(tmp_path / "job.yaml").local_uris == [f"file://{tmp_path}/{path}"]
