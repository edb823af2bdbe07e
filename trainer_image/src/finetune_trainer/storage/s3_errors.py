"""What went wrong with an S3 server, as a reason. The only place that knows the codes.

https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error, RetriesExceededError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError
from finetune_trainer.storage.store import ObjectMissingError

_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    ProfileNotFound,
)
_REMEDY = (
    "Set spec.storage.secretName to a Secret with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
    "(and AWS_SESSION_TOKEN where needed), or outside a cluster set these in the environment."
)
_MISSING = ("NoSuchKey", "NotFound", "404")
_DENIED = ("InvalidAccessKeyId", "ExpiredToken", "InvalidToken", "XAdminUserNotFound")  # the last: versitygw, with 404
_REGION = ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_BUSY = ("SlowDown", "RequestTimeout", "Throttling", "TooManyRequests", "RequestLimitExceeded")
# Changed on the way; a 400 without a code of S3's is an answer of something in between.
_CHANGED = ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "InvalidPart")


@contextmanager
def translated(bucket: str, endpoint: str, uri: str, access_key: str = "") -> Iterator[None]:
    """Raise what boto3 raises as RunError, or as ObjectMissingError where one object is not there.

    Args:
        bucket: The bucket that is asked.
        endpoint: The server, for the message.
        uri: What is asked for, for the message.
        access_key: Its last four characters are told when access is refused.
    """
    try:
        yield
    except RetriesExceededError as error:
        raise _unavailable(endpoint, uri, error.last_exception) from error
    except Boto3Error as error:  # S3UploadFailedError: the cause is what the server said
        cause = error.__cause__ or error.__context__
        raise (_of_answer(cause, bucket, endpoint, uri, access_key) if isinstance(cause, ClientError) else
               _unavailable(endpoint, uri, error)) from error  # fmt: skip
    except ClientError as error:
        raise _of_answer(error, bucket, endpoint, uri, access_key) from error
    except _NO_CREDENTIALS as error:
        raise RunError(Reason.STORAGE_DENIED, f"no credentials for {uri}: {error}", _REMEDY) from error
    except (BotoCoreError, ConnectionError) as error:
        raise _unavailable(endpoint, uri, error) from error


def _of_answer(error: ClientError, bucket: str, endpoint: str, uri: str, access_key: str) -> Exception:
    """The reason behind an answer of the server."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    said = error.response.get("Error", {}).get("Message") or code
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        message = f"bucket '{bucket}' does not exist at {endpoint}"
        hint = "Create it, or correct the URI or spec.storage.endpoint."
        return RunError(Reason.BUCKET_NOT_FOUND, message, hint)
    if code in _MISSING:
        return ObjectMissingError(uri)
    if code in _REGION:
        hint = "Set spec.storage.region to the bucket's region."
        return RunError(Reason.INVALID_CONFIGURATION, f"{endpoint} refused {uri}: {code}, {said}", hint)
    if code in _BUSY + _CHANGED or status >= 500 or status == 429 or (code == "400" and status == 400):
        return _unavailable(endpoint, uri, error)
    if status in (401, 403) or code in _DENIED:
        key = f" to the access key that ends in {access_key[-4:]}" if len(access_key) >= 8 else ""
        return RunError(Reason.STORAGE_DENIED, f"{endpoint} refused access to {uri}{key}: {code}, {said}", _REMEDY)
    return RunError(Reason.INTERNAL_ERROR, f"{endpoint} answered {status} for {uri}: {code}, {said}")


def _unavailable(endpoint: str, uri: str, error: BaseException) -> RunError:
    return RunError(
        Reason.STORAGE_UNAVAILABLE,
        f"{endpoint} did not serve {uri}: {error}",
        "Check that the server runs and that this machine or pod can reach it.",
    )
