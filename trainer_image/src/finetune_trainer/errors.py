"""The one error of a run that has a reason.

    RunError            ends the run with `reason`, its exit code, a message with the offending value, and a hint

Anything else that escapes is our own bug and ends as InternalError.
"""

from finetune_api.outcome import Outcome, Reason


class RunError(Exception):
    """Ends the run. Its text becomes the termination message."""

    def __init__(self, reason: Reason, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint

    def outcome(self, step: int = 0) -> Outcome:
        """The error as the run's outcome."""
        return Outcome(reason=self.reason, message=self.message, hint=self.hint, step=step)
