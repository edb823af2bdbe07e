"""buildah and skopeo, in namespaces of their own: an interrupted build leaves no process and no mount behind."""

import os
import shutil
from pathlib import Path

from localcluster import process
from localcluster.state import Paths

# A run root says what is mounted where. It lies on a tmpfs that ends with the namespace, so that buildah
# never believes in mounts of an interrupted build: to it, every start is the first after a reboot.
_IN_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-euc"]
_WITH_RUN_ROOT = 'mount -t tmpfs tmpfs "$0"; exec "$@"'

_CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def isolated(script: str, *arguments: str) -> list[str]:
    """Return the command that runs a shell script in mount and pid namespaces of its own."""
    return [*_IN_NAMESPACES, script, *arguments]


def buildah(paths: Paths, what: str, *arguments: str) -> None:
    """Run buildah on the image store of the state folder."""
    storage, run = paths.images / "storage", paths.images / "run"
    _run(paths, what, "buildah", f"--root={storage}", f"--runroot={run}", "--storage-driver=overlay", *arguments)


def export(paths: Paths, what: str, image: str, layout: Path) -> None:
    """Copy an image from the store into an OCI layout folder, as it is there: layers are not compressed.

    By skopeo, for `buildah push` to a layout compresses whatever it is told, and would do so again each time.
    A layer that the layout has already is not even read.
    """
    storage, run = paths.images / "storage", paths.images / "run"
    source, target = f"containers-storage:[overlay@{storage}+{run}]{image}", f"oci:{layout}:{image}"
    _run(paths, what, "skopeo", "copy", "--dest-oci-accept-uncompressed-layers", source, target)


def _run(paths: Paths, what: str, *command: str) -> None:
    """Run a program on the store; its output goes to a log, progress to the terminal."""
    runroot, temporary = paths.images / "run", paths.images / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # what an interrupted build left there
    for folder in (runroot, temporary):
        folder.mkdir(parents=True, exist_ok=True)
    log = paths.build_logs / f"{what.replace(' ', '-')}.log"
    log.unlink(missing_ok=True)
    env = {**os.environ, "TMPDIR": str(temporary)}
    process.run_long(what, isolated(_WITH_RUN_ROOT, str(runroot), *command), log, env=env)


def ca_bundle() -> list[str]:
    """Return the option that shows a build the certificates this machine trusts.

    Behind a proxy of one's own a package registry is reached only with these. They are a secret of the build:
    a file that exists while a RUN line asks for it, in no layer and no image.
    """
    asked = (os.environ.get("SSL_CERT_FILE"), *_CA_BUNDLES)
    found = next((file for file in asked if file and Path(file).is_file()), None)
    return [f"--secret=id=ca-bundle,src={found}"] if found else []
