"""The demo's side of the S3 server: put the model and the rows there, get the adapter back and check it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from narrate import Failed, say


class Bucket:
    """One bucket."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name=environment["AWS_REGION"],
            config=Config(s3={"addressing_style": "path"}),
        )

    def upload(self, folder: Path, prefix: str) -> None:
        """Upload every file of a folder."""
        for file in sorted(file for file in folder.iterdir() if file.is_file()):
            say(f"  s3://{self.name}/{prefix}/{file.name}  {file.stat().st_size / 1e6:.1f} MB", "dim")
            self._client.upload_file(str(file), self.name, f"{prefix}/{file.name}")

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=f"{prefix}/")
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def clear(self, prefix: str) -> None:
        """Delete what an earlier demo left below a prefix."""
        for key in self.keys(prefix):
            self._client.delete_object(Bucket=self.name, Key=key)

    def download(self, prefix: str, folder: Path) -> None:
        """Download what lies directly below a prefix, not what is in its folders."""
        folder.mkdir(parents=True, exist_ok=True)
        for key in self.keys(prefix):
            name = key.removeprefix(f"{prefix}/")
            if name and "/" not in name:
                self._client.download_file(self.name, key, str(folder / name))


def check_manifest(folder: Path) -> int:
    """Compare every downloaded file with manifest.json and return how many there are.

    Raises:
        Failed: A file is missing, differs, or is not named in the manifest.
    """
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
    except FileNotFoundError as error:
        raise Failed("there is no manifest.json: no verified adapter was published") from error
    present = {file.name for file in folder.iterdir()} - {"manifest.json"}
    if present != set(files):
        raise Failed(f"manifest.json names other files than there are: {sorted(present ^ set(files))}")
    for name, facts in files.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != facts["sha256"]:
            raise Failed(f"{name} has another sha256 than manifest.json says")
    return len(files)
