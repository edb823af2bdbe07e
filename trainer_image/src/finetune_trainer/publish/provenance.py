"""Where a result comes from: what ran, as far as the container knows it."""

import os
from importlib.metadata import version

from finetune_api import __version__
from finetune_api.names import IMAGE_VARIABLE
from finetune_api.run import RunFile

REVISION = "FINETUNE_REVISION"
"""Git commit that the image was built from; set by its Dockerfile."""
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes")


def versions() -> dict[str, str]:
    """The packages that decide what is computed."""
    return {"finetune-operator": __version__} | {package: version(package) for package in _PACKAGES}


def provenance(run: RunFile) -> dict[str, object]:
    """The run as resolved, the image and the commit it was built from; None where this container was not told.

    https://slsa.dev/spec/v1.0/provenance names the same parts: what was asked for, and what ran it.
    """
    return {
        "run": run.model_dump(mode="json", by_alias=True, exclude_none=True),
        "image": os.environ.get(IMAGE_VARIABLE) or None,
        "revision": os.environ.get(REVISION) or None,
    }
