"""An S3 server over a directory: versitygw, for the cluster and, on loopback and without root, for any test.

    with s3.start_server(tmp_path, "127.0.0.1") as server:
        boto3.client("s3", **server.client_arguments())

Buckets are folders below `data/`, objects are files in them; requests are path style.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from localcluster import process, topology
from localcluster.errors import DaemonDiedError, LocalClusterError
from localcluster.state import Paths

_ATTEMPTS = 3  # between choosing a free port and listening on it, somebody else may take it


@dataclass(frozen=True)
class S3Server:
    """A running server and the way to it.

    Attributes:
        directory: Holds `data/`, the log and the credentials file.
        endpoint: URL, with the port.
        access_key: The root user's name, new for each server.
        secret_key: The root user's secret.
        pid: The process.
    """

    directory: Path
    endpoint: str
    access_key: str
    secret_key: str
    pid: int

    def environment(self) -> dict[str, str]:
        """Return what boto3, the AWS tools and the trainer read from the environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": topology.REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client_arguments(self) -> dict[str, str]:
        """Return the arguments of `boto3.client("s3", ...)`."""
        return {
            "endpoint_url": self.endpoint,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "region_name": topology.REGION,
        }

    def running(self) -> bool:
        """Tell whether the process is there, and is still this server."""
        return process.alive(self.pid) and str(self.directory) in process.command_line(self.pid)

    def stop(self) -> None:
        """End the server, by its process id; a request under way may finish."""
        if self.running() and not process.end([self.pid], signal.SIGTERM, timeout=2):
            process.end([self.pid], signal.SIGKILL)
        with suppress(ChildProcessError):  # it may be the child of another process, or gone
            os.waitpid(self.pid, 0)

    def __enter__(self) -> "S3Server":
        """Serve until the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def start_server(
    directory: Path, address: str = "127.0.0.1", *, buckets: tuple[str, ...] = topology.BUCKETS
) -> S3Server:
    """Start a server on a free port, with credentials of its own, and create the buckets.

    Args:
        directory: Where everything of this server goes; created when missing.
        address: An address of this machine.
        buckets: Created when missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for left in range(_ATTEMPTS - 1, -1, -1):
        server = _spawn(directory, address)
        try:
            _wait_until_ready(server)
            for bucket in buckets:
                _admin(server, "create-bucket", "--owner", server.access_key, "--bucket", bucket)
        except DaemonDiedError:
            server.stop()
            if not left:
                raise
        except BaseException:
            server.stop()
            raise
        else:
            return server
    raise AssertionError("unreachable: the last attempt returns or raises")


def binary() -> Path:
    """Return the versitygw binary; say how to get it when it is not built yet."""
    path = Paths.default().bin / "versitygw"
    if not path.exists():
        raise LocalClusterError(f"{path} is not built yet.", remedy="Build it with: python -m localcluster binaries")
    return path


def _spawn(directory: Path, address: str) -> S3Server:
    data = directory / "data"
    data.mkdir(exist_ok=True)
    port = _free_port(address)
    access_key, secret_key = f"local{secrets.token_hex(8)}", secrets.token_hex(20)
    environment = {"PATH": os.defpath, "ROOT_ACCESS_KEY_ID": access_key, "ROOT_SECRET_ACCESS_KEY": secret_key}
    command = [str(binary()), "--port", f"{address}:{port}", "posix", *_metadata(directory, data), str(data)]
    pid = process.start_detached(command, directory / "versitygw.log", environment)
    server = S3Server(directory, f"http://{address}:{port}", access_key, secret_key, pid)
    credentials = directory / "server.json"
    credentials.touch(mode=0o600)
    credentials.write_text(json.dumps(asdict(server) | {"directory": str(directory)}))
    return server


def _metadata(directory: Path, data: Path) -> list[str]:
    """Keep object metadata in extended attributes; beside the data where the file system has none."""
    try:
        os.setxattr(data, "user.finetune", b"1")
    except OSError:
        (directory / "metadata").mkdir(exist_ok=True)
        return ["--sidecar", str(directory / "metadata")]
    os.removexattr(data, "user.finetune")
    return []


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(server: S3Server) -> None:
    log = server.directory / "versitygw.log"

    def alive() -> None:
        if not process.alive(server.pid):
            raise DaemonDiedError("The S3 server ended by itself.", log=log)

    def answers() -> bool:
        return _try_admin(server, "list-buckets").returncode == 0

    process.wait_until("the S3 server to answer", answers, timeout=30, check=alive, log=log)


def _try_admin(server: S3Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.defpath,
        "ADMIN_ACCESS_KEY_ID": server.access_key,
        "ADMIN_SECRET_ACCESS_KEY": server.secret_key,
        "ADMIN_ENDPOINT_URL": server.endpoint,
        "ADMIN_REGION": topology.REGION,
    }
    return subprocess.run(
        [str(binary()), "admin", *arguments], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def _admin(server: S3Server, *arguments: str) -> None:
    done = _try_admin(server, *arguments)
    if done.returncode:
        raise LocalClusterError(
            f"versitygw admin {arguments[0]} failed: {done.stderr.strip()}", log=server.directory / "versitygw.log"
        )


def load(directory: Path) -> S3Server | None:
    """Return the server that was started over this directory, running or not."""
    try:
        content = json.loads((directory / "server.json").read_text())
    except FileNotFoundError:
        return None
    return S3Server(**{**content, "directory": directory})
