"""The Python judge of the table of job files; tests/cluster asks the API server about the same table."""

import pytest

from finetune_api.load import InvalidJobFileError, load_jobs
from tests.api import evaluation_cases
from tests.api.cases import ACCEPTED, REFUSED, Case


@pytest.mark.parametrize("case", ACCEPTED + evaluation_cases.ACCEPTED, ids=lambda case: case.sentence)
def test_accepted(case: Case) -> None:
    """A good job file loads."""
    assert len(load_jobs(case.text)) == 1


@pytest.mark.parametrize("case", REFUSED + evaluation_cases.REFUSED, ids=lambda case: case.sentence)
def test_refused_with_the_field(case: Case) -> None:
    """A bad job file is refused, and the first problem names the field at fault."""
    with pytest.raises(InvalidJobFileError) as caught:
        load_jobs(case.text)

    assert caught.value.problems[0].field.startswith(case.field)


def test_every_problem_is_told() -> None:
    """All findings of all documents come at once, each with the number of its document."""
    bad = REFUSED[0].text + "---\n" + ACCEPTED[0].text + "---\n" + REFUSED[1].text

    with pytest.raises(InvalidJobFileError) as caught:
        load_jobs(bad)

    assert {problem.document for problem in caught.value.problems} == {1, 3}


def test_other_kinds_are_left_out() -> None:
    """A file may hold Secrets and Namespaces beside its jobs."""
    text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\n" + ACCEPTED[0].text

    assert [job.metadata.name for job in load_jobs(text)] == ["case"]


def test_file_uris_only_outside_a_cluster() -> None:
    """file:// is refused as a cluster would refuse it, unless the run is local."""
    text = ACCEPTED[0].text.replace("s3://adapters/case", "file:///tmp/out")

    with pytest.raises(InvalidJobFileError, match="s3://bucket/prefix"):
        load_jobs(text)
    assert load_jobs(text, local=True)[0].spec.output.uri == "file:///tmp/out"


@pytest.mark.parametrize("text", ["", "# nothing\n", "a: [", "kind: Pod\n", "- a\n", "just words"])
def test_no_job_at_all(text: str) -> None:
    """A text without a FineTuneJob is refused with a sentence, never with a traceback."""
    with pytest.raises(InvalidJobFileError):
        load_jobs(text)


def test_a_key_given_twice() -> None:
    """Stricter than kubectl on purpose: kubectl drops the first value without a word."""
    with pytest.raises(InvalidJobFileError, match="'epochs' is given twice"):
        load_jobs(ACCEPTED[0].text + "  training: {epochs: 1, epochs: 2}\n")
