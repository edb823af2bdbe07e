"""The base image: a small Debian root with Python, made by debootstrap, for machines that reach no image registry.

Measured: 36 s, 122 MB. Elsewhere the Dockerfiles take a public slim Python image instead (ARG BASE_IMAGE).
"""

import shutil

from localcluster import builder, console, process
from localcluster.state import Paths

NAME = "localhost/finetune-base:trixie"
SUITE = "trixie"
_PACKAGES = "python3,python3-venv,ca-certificates"

# What no program of ours reads. The licences in copyright files stay.
_STRIP = """
cd "$1"
rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* usr/share/locale/* usr/share/man/* usr/share/info/*
find usr/share/doc -type f ! -name copyright -delete
find . -name __pycache__ -type d -prune -exec rm -rf {} +
"""
# Written last and renamed: a tar that exists is whole.
_SCRIPT = f"""
debootstrap --variant=minbase --include={_PACKAGES} {SUITE} "$1"
{_STRIP}
tar --create --numeric-owner --one-file-system --exclude=./proc/* --exclude=./sys/* --exclude=./dev/* \\
    --file "$0.part" .
mv "$0.part" "$0"
"""

_DOCKERFILE = 'FROM scratch\nADD rootfs.tar /\nCMD ["python3"]\n'


def ensure(paths: Paths) -> None:
    """Build the image, if it is not in the store yet."""
    done = paths.images / "base-complete"
    if done.exists():
        return
    folder = paths.images / "base"
    root = folder / "root"
    shutil.rmtree(folder, ignore_errors=True)
    root.mkdir(parents=True)
    log = paths.build_logs / "base-root.log"
    log.unlink(missing_ok=True)
    process.run_long(
        f"making a Debian root with Python ({SUITE}, 40 s)",
        builder.isolated(_SCRIPT, str(folder / "rootfs.tar"), str(root)),
        log,
    )
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    shutil.rmtree(root)
    builder.buildah(paths, "building the base image", "build", f"--tag={NAME}", str(folder))
    shutil.rmtree(folder)
    done.touch()
    console.say(f"The base image {NAME} is built.")


def dockerfile_argument() -> str:
    """Return the build argument that makes a Dockerfile start from it."""
    return f"--build-arg=BASE_IMAGE={NAME}"
