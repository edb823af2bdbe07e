"""What `finetune run` refuses before it starts anything, with exit code 64 and the remedy."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune_cli.main import app

JOB = """
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata: {name: %s}
spec:
  model: {uri: %s}
  dataset: {train: {uri: s3://data/a.jsonl}}
  output: {uri: s3://adapters/x}
"""


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("a: [", [], "not valid YAML"),
        (JOB % ("One", "hf://a/b"), [], "metadata.name"),
        ("---".join([JOB % ("one", "hf://a/b"), JOB % ("two", "hf://a/b")]), [], "--name: one, two"),
        (JOB % ("one", "hf://a/b"), ["--name", "two"], "no job named two"),
        (JOB % ("one", "pvc://claim/model"), [], "pvc://claim/model"),
    ],
)
def test_what_cannot_run_is_refused(tmp_path: Path, text: str, arguments: list[str], said: str) -> None:
    """The message names what is wrong; nothing is written."""
    path = tmp_path / "job.yaml"
    path.write_text(text)

    result = CliRunner().invoke(app, ["run", str(path), "--work-dir", str(tmp_path / "work"), *arguments])

    assert result.exit_code == 64
    assert said in result.output
    assert not (tmp_path / "work").exists()
