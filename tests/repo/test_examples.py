"""Every example is a job that the API server, or at least `finetune run`, takes."""

from pathlib import Path

import pytest

from finetune_api.load import load_jobs
from finetune_cli import jobfile

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
JOBS = sorted(
    [
        *EXAMPLES.glob("*.yaml"),
        *EXAMPLES.glob("*/job.yaml"),
        *EXAMPLES.glob("methods/*.yaml"),
        *EXAMPLES.glob("tasks/*.yaml"),
    ]
)


def test_there_are_examples() -> None:
    """An empty list would pass everything below."""
    assert {path.relative_to(ROOT).as_posix() for path in JOBS} >= {
        "examples/support-bot.yaml",
        "examples/demo/job.yaml",
        "examples/quickstart/job.yaml",
        "examples/methods/qlora.yaml",
        "examples/tasks/seq2seq.yaml",
    }


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_example_is_valid(path: Path) -> None:
    """No problem is found; where no URI is local, a cluster takes it as it is."""
    file = jobfile.read(path)

    assert not file.problems
    if not file.local_uris:
        assert load_jobs(path.read_text())


def test_the_quickstart_names_files_that_are_there() -> None:
    """The rows lie beside the job; the model comes from prepare.py and the adapter from the run."""
    folder = ROOT / "examples" / "quickstart"
    paths = {Path(uri.removeprefix("file://")) for uri in jobfile.read(folder / "job.yaml").local_uris}

    assert {path.relative_to(folder).as_posix() for path in paths} == {"model", "train.jsonl", "eval.jsonl", "adapter"}
    assert all(path.is_file() for path in paths if path.suffix == ".jsonl")
