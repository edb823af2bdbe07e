"""s3://bucket/prefix on AWS or any compatible server, through boto3.

https://boto3.amazonaws.com/v1/documentation/api/latest/reference/services/s3.html
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import HTTPClientError, ResponseStreamingError

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import Storage
from finetune_trainer.errors import RunError
from finetune_trainer.storage import addresses
from finetune_trainer.storage.s3_errors import translated
from finetune_trainer.storage.store import Entry, ObjectMissingError

_MIB = 1 << 20
# Large pieces: in Python every one costs, and on a fast network it is the threads that wait for each other.
_TRANSFER = TransferConfig(
    multipart_threshold=64 * _MIB,
    multipart_chunksize=32 * _MIB,
    max_concurrency=8,
    io_chunksize=_MIB,
    max_io_queue=32,
)
CONNECT_SECONDS, READ_SECONDS = 10, 60
"""A server that says nothing for so long is asked anew."""
_READS = 3  # boto3 retries requests, but not the reading of a body that breaks off
T = TypeVar("T")


class S3Store:
    """Objects below one prefix of a bucket. Credentials come from boto3's default chain only."""

    revision = ""

    def __init__(self, location: str, storage: Storage) -> None:
        self._bucket, _, self._prefix = location.partition("/")
        self._storage = storage
        self.uri = f"s3://{location}"

    def list(self, prefix: str = "", limit: int | None = None) -> list[Entry]:
        """See Store; the bucket lists its keys sorted."""
        base = f"{self._prefix}/" if self._prefix else ""
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=base + prefix, PaginationConfig={"MaxItems": limit}
            )
            return [
                Entry(item["Key"][len(base) :], item["Size"], item["ETag"].strip('"'))
                for page in pages
                for item in page.get("Contents", [])
                if not item["Key"].endswith("/")  # some tools leave empty objects for folders
            ]

    def download(self, path: str, target: Path, on_bytes: Callable[[int], None] | None = None) -> None:
        """See Store; several parts at a time, into a temporary file beside `target`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        with self._errors(path):
            self._client.download_file(self._bucket, self._key(path), str(part), Callback=on_bytes, Config=_TRANSFER)
        part.replace(target)

    def upload(self, source: Path, path: str) -> None:
        """See Store; several parts at a time."""
        with self._errors(path):
            self._client.upload_file(str(source), self._bucket, self._key(path), Config=_TRANSFER)

    def read(self, path: str) -> bytes:
        """See Store."""

        def content() -> bytes:
            data: bytes = self._client.get_object(Bucket=self._bucket, Key=self._key(path))["Body"].read()
            return data

        with self._errors(path):
            return _again(content)

    def write(self, path: str, data: bytes) -> None:
        """See Store."""
        with self._errors(path):
            self._client.put_object(Bucket=self._bucket, Key=self._key(path), Body=data)

    def sha256(self, path: str) -> str:
        """See Store."""

        def digest() -> str:
            sha = hashlib.sha256()
            body = self._client.get_object(Bucket=self._bucket, Key=self._key(path))["Body"]
            for chunk in body.iter_chunks(_MIB):
                sha.update(chunk)
            return sha.hexdigest()

        with self._errors(path):
            return _again(digest)

    def delete(self, path: str) -> None:
        """See Store."""
        with self._errors(path):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(path))

    def exists(self, path: str) -> bool:
        """See Store; asks by listing, for that tells a missing bucket from a missing key."""
        return [entry.path for entry in self.list(path, limit=1)] == [path]

    def abort_unfinished(self, ours: Callable[[str], bool]) -> int:
        """See Store; these are multipart uploads, whose parts are stored and paid until somebody aborts them."""
        base, aborted = self._key(""), 0
        with self._errors(""):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=base)
            for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
                if ours(upload["Key"][len(base) :]):
                    which = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                    self._client.abort_multipart_upload(Bucket=self._bucket, **which)
                    aborted += 1
        return aborted

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    @cached_property
    def _client(self) -> Any:
        try:
            client = boto3.session.Session().client(
                "s3",
                endpoint_url=self._storage.endpoint,
                region_name=self._storage.region,
                config=_config(custom=self._endpoint != ""),
            )
        except ValueError as error:
            message = f"storage.endpoint '{self._endpoint}' is refused: {error}"
            raise RunError(Reason.INVALID_CONFIGURATION, message) from error
        client.meta.events.register("before-send.s3", lambda request, **_: addresses.refuse(request.url))
        return client

    @property
    def _endpoint(self) -> str:
        """URL of a server that is not AWS; botocore reads the same variables."""
        variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        return self._storage.endpoint or next((os.environ[name] for name in variables if os.environ.get(name)), "")

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        endpoint = self._endpoint or f"S3 in {self._storage.region}"
        try:
            with translated(self._bucket, endpoint, f"s3://{self._bucket}/{self._key(path)}", self._access_key):
                yield
        except ObjectMissingError:
            # The answer to HEAD has no body: 404 may also mean the bucket, or on versitygw the access key.
            with translated(self._bucket, endpoint, self.uri, self._access_key):
                self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)
            raise

    @property
    def _access_key(self) -> str:
        return os.environ.get("AWS_ACCESS_KEY_ID", "")


def _config(*, custom: bool) -> Config:
    """Path style for servers that are not AWS, and only the checksums that such servers all know.

    Every object is read back and compared by its sha256 anyway.
    https://docs.aws.amazon.com/sdkref/latest/guide/feature-dataintegrity.html
    """
    retries = {"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS", "5"))}
    common = {
        "retries": retries,
        "max_pool_connections": 32,
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": READ_SECONDS,
    }
    if not custom:
        return Config(**common)
    return Config(
        **common,
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )


def _again(read: Callable[[], T]) -> T:
    """Repeat a read whose body broke off."""
    for _ in range(_READS - 1):
        try:
            return read()
        except (HTTPClientError, ResponseStreamingError):
            continue
    return read()
