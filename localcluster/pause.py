"""The pause binary and its image: the one image Kubernetes itself needs, and nothing can be pulled."""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path

from localcluster import process, topology
from localcluster.state import SOURCE, Paths

_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


def ensure(paths: Paths) -> None:
    """Compile the binary once; atomically, for the node runs it."""
    if paths.init.exists():
        return
    paths.init.parent.mkdir(parents=True, exist_ok=True)
    staged = paths.init.with_suffix(".staged")
    process.run(["gcc", "-Os", "-static", "-s", "-o", str(staged), str(SOURCE / "pause.c")])
    staged.rename(paths.init)


def write_image(paths: Paths, archive: Path) -> None:
    """Write a docker-archive with the binary as its only file."""
    layer = _tar({"pause": (paths.init.read_bytes(), 0o755)})
    config = {
        "architecture": _ARCHITECTURE.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [topology.PAUSE_IMAGE], "Layers": ["layer.tar"]}]
    archive.write_bytes(
        _tar(
            {
                "manifest.json": (json.dumps(manifest).encode(), 0o644),
                "config.json": (json.dumps(config).encode(), 0o644),
                "layer.tar": (layer, 0o644),
            }
        )
    )


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    """Return a tar with fixed times and owners, so that the same binary is the same image."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
