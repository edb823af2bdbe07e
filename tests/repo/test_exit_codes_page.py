"""The page of exit codes is complete, and says of each reason what the contract says."""

import re
from pathlib import Path

from finetune_api.outcome import FollowUp, Reason

PAGE = Path(__file__).parents[2] / "docs" / "exit-codes.md"
WORDS = {
    FollowUp.PROCEED: "the stage",
    FollowUp.FAIL: "final",
    FollowUp.RETRY: "another attempt",
    FollowUp.RESUME: "goes on from the checkpoint",
    FollowUp.SHRINK: "half the micro-batch",
}


def test_every_reason_has_its_row() -> None:
    """Each reason stands in one row, beside its own code, with the words of what follows."""
    rows = re.findall(r"^\| (\d+) \| ([\w, ]+) \| .* \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    told = {name: (int(code), follows) for code, names, follows in rows for name in names.split(", ")}
    assert sorted(told) == sorted(Reason)
    for reason in Reason:
        code, follows = told[reason]
        assert code == reason.exit_code
        assert WORDS.get(reason.follow_up, "") in follows
