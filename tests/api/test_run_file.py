"""The run file carries everything the trainer needs, and nothing else."""

import pytest
from pydantic import ValidationError

from finetune_api.load import load_jobs
from finetune_api.run import RunFile
from tests.api.cases import ACCEPTED, Case


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.sentence)
def test_round_trip(case: Case) -> None:
    """What is written is read back equal, and the same job always gives the same bytes."""
    (job,) = load_jobs(case.text)
    run = RunFile.of(job, namespace="team", uid="1b4e28ba", attempt=2)

    assert RunFile.from_json(run.to_json()) == run
    assert RunFile.of(job, namespace="team", uid="1b4e28ba", attempt=2).to_json() == run.to_json()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (('"version":"finetune.dev/run/v1"', '"version":"finetune.dev/run/v9"'), "version"),
        (('"attempt":1', '"attempt":0'), "attempt"),
        (('"name":"case"', '"title":"case"'), "name"),
        (('"epochs":1', '"epochs":0'), "training.epochs"),
    ],
)
def test_refused_with_the_field(change: tuple[str, str], field: str) -> None:
    """A version, a field or a value that this trainer does not know is refused by name."""
    text = RunFile.of(load_jobs(ACCEPTED[0].text)[0], namespace="team", uid="a").to_json()
    assert change[0] in text

    with pytest.raises(ValidationError) as caught:
        RunFile.from_json(text.replace(*change))

    assert field in {".".join(str(part) for part in error["loc"]) for error in caught.value.errors()}
