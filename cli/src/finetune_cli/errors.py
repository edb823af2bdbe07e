"""The one error of the command line."""


class UsageError(Exception):
    """Something the user can put right: what is wrong, and the remedy. Ends the command with `exit_code`."""

    def __init__(self, message: str, remedy: str = "", *, exit_code: int = 64) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.exit_code = exit_code
