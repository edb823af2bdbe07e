"""What can go wrong between the operator and the API server."""


class ApiError(Exception):
    """The API server answered with an error; `status` is its HTTP code."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class OverloadedError(ApiError):
    """The API server asks to come back later; `seconds` says when."""

    def __init__(self, status: int, reason: str, message: str, seconds: float) -> None:
        super().__init__(status, reason, message)
        self.seconds = seconds


class RefusedError(Exception):
    """A Job cannot be created or changed, for a cause outside of the operator; `reason` is a condition reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class SettingsError(ValueError):
    """The environment holds a setting that the operator cannot use."""
