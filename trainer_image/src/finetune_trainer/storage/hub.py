"""hf://owner/name and hf://datasets/owner/name/path: read-only, through huggingface_hub.

https://huggingface.co/docs/huggingface_hub/package_reference/hf_api
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from huggingface_hub import HfApi, constants, hf_hub_download, set_client_factory
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import default_client_factory

from finetune_api.outcome import Reason
from finetune_trainer.disk import is_of_disk
from finetune_trainer.errors import RunError
from finetune_trainer.storage import addresses
from finetune_trainer.storage.store import Entry, ObjectMissingError

_TOKEN = "Put a token with access into the key HF_TOKEN of the Secret that spec.model.secretName names."  # noqa: S105
_NETWORK = "Check that the hub can be reached, or copy the files to s3:// and use that URI."


def _client() -> Any:
    """The client of huggingface_hub, which looks before each request, also before it follows a redirect."""
    client = default_client_factory()
    client.event_hooks["request"].append(lambda request: addresses.refuse(str(request.url)))
    return client


set_client_factory(_client)
if constants.ENDPOINT != "https://huggingface.co":
    constants.HF_HUB_DISABLE_XET = True  # its own client goes wherever the hub tells it to


class HubStore:
    """Files of one repository at one commit, or below one of its folders."""

    def __init__(self, location: str, revision: str | None = None) -> None:
        self.uri = f"hf://{location}"
        parts = location.split("/")
        self._type = "dataset" if parts[0] == "datasets" else "model"
        if self._type == "dataset":
            parts = parts[1:]
        if len(parts) < 2:
            raise RunError(Reason.INVALID_CONFIGURATION, f"'{self.uri}' names no repository", "Use hf://owner/name.")
        self._repository = "/".join(parts[:2])
        self._folder = "".join(f"{part}/" for part in parts[2:])
        self._wanted = revision

    @property
    def revision(self) -> str:
        """The commit, asked once, so that all files are of the same one."""
        with self._errors(""):
            return str(self._info.sha)

    def list(self, prefix: str = "", limit: int | None = None) -> list[Entry]:
        """See Store."""
        base = self._folder
        with self._errors(prefix):
            found = [
                Entry(file.rfilename[len(base) :], file.size, file.blob_id or "", file.lfs.sha256 if file.lfs else "")
                for file in self._info.siblings or []
                if file.rfilename.startswith(base + prefix)
            ]
        return sorted(found, key=lambda entry: entry.path)[:limit]

    def download(self, path: str, target: Path, on_bytes: Callable[[int], None] | None = None) -> None:
        """See Store; goes on with what an earlier try left in the staging folder."""
        staging = target.parent / ".hub"
        with self._errors(path):
            file = Path(
                hf_hub_download(
                    self._repository,
                    self._folder + path,
                    repo_type=self._type,
                    revision=self._info.sha,
                    local_dir=staging,
                )
            )
        file.replace(target)
        if on_bytes:
            on_bytes(target.stat().st_size)

    def read(self, path: str) -> bytes:
        """See Store."""
        with self._errors(path):
            name = hf_hub_download(self._repository, self._folder + path, repo_type=self._type, revision=self._info.sha)
        return Path(name).read_bytes()

    def sha256(self, path: str) -> str:
        """See Store."""
        return hashlib.sha256(self.read(path)).hexdigest()

    def exists(self, path: str) -> bool:
        """See Store."""
        return any(entry.path == path for entry in self.list(path))

    def upload(self, source: Path, path: str) -> None:  # noqa: ARG002
        """Refused."""
        self._refuse()

    def write(self, path: str, data: bytes) -> None:  # noqa: ARG002
        """Refused."""
        self._refuse()

    def delete(self, path: str) -> None:  # noqa: ARG002
        """Refused."""
        self._refuse()

    def abort_unfinished(self, ours: Callable[[str], bool]) -> int:  # noqa: ARG002
        """There are none."""
        return 0

    def _refuse(self) -> NoReturn:
        raise RunError(Reason.INVALID_CONFIGURATION, f"{self.uri} is read-only here", "Write to s3:// or pvc://.")

    @cached_property
    def _info(self) -> Any:
        return HfApi().repo_info(
            self._repository, repo_type=self._type, revision=self._wanted, files_metadata=True, timeout=30
        )

    @contextmanager
    def _errors(self, path: str) -> Iterator[None]:
        uri = f"{self.uri}/{path}".rstrip("/")
        at = f" at revision '{self._wanted}'" if self._wanted else ""
        try:
            yield
        except GatedRepoError as error:
            raise RunError(Reason.GATED_MODEL, f"{self.uri} is gated: {_line(error)}", _TOKEN) from error
        except LocalEntryNotFoundError as error:  # the hub could not be asked
            raise RunError(Reason.HUB_UNAVAILABLE, f"the hub did not serve {uri}: {_line(error)}", _NETWORK) from error
        except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError, HFValidationError) as error:
            raise ObjectMissingError(uri + at) from error
        except HfHubHTTPError as error:
            if error.response.status_code in (401, 403):
                message = f"the hub refused access to {uri}: {_line(error)}"
                raise RunError(Reason.STORAGE_DENIED, message, _TOKEN) from error
            raise RunError(Reason.HUB_UNAVAILABLE, f"the hub did not serve {uri}: {_line(error)}", _NETWORK) from error
        except Exception as error:
            if isinstance(error, OSError) and is_of_disk(error):
                raise
            if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):
                message = f"the hub did not serve {uri}: {_line(error)}"
                raise RunError(Reason.HUB_UNAVAILABLE, message, _NETWORK) from error
            raise


def _line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error) or type(error).__name__).splitlines()[0]
