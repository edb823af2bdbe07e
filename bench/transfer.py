"""Megabytes per second of a model's download and an adapter's upload through a real S3 server, beside rclone.

    python -m bench.transfer [--megabytes 600] [--repeats 3]       rclone: apt install rclone

Both sides move the same files through the same server on loopback, in turn, with the page cache warm. This trainer's
download includes the sha256 of every file, rclone's the MD5 that it compares by itself.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import boto3

from bench.machine import Load
from bench.training import ratios
from finetune_api.v1alpha1 import Model, Storage
from finetune_trainer.storage import open_store
from finetune_trainer.storage.fetch import fetch_model
from localcluster.s3 import S3Server, start_server

SHARDS = 3
_MB = 1_000_000


def make(folder: Path, megabytes: int) -> None:
    """Write a model folder of `megabytes` in shards that are valid safetensors, and an adapter of a sixth of it."""
    (folder / "model").mkdir(parents=True)
    (folder / "model/config.json").write_text('{"model_type": "llama"}\n')
    (folder / "model/tokenizer.json").write_text("{}\n")
    for number in range(SHARDS):
        _weights(folder / f"model/model-{number + 1:05d}-of-{SHARDS:05d}.safetensors", megabytes // SHARDS, number)
    _weights(folder / "adapter_model.safetensors", megabytes // 6, SHARDS)


def _weights(path: Path, megabytes: int, number: int) -> None:
    import numpy as np  # noqa: PLC0415
    from safetensors.numpy import save_file  # noqa: PLC0415

    random = np.random.default_rng(number)
    save_file({f"w{number}": random.random(megabytes * _MB // 4, dtype=np.float32)}, path)


def rclone(server: S3Server, *arguments: str) -> None:
    """Run rclone with its defaults; the server is configured through its environment."""
    environment = {
        "RCLONE_CONFIG_S_TYPE": "s3", "RCLONE_CONFIG_S_PROVIDER": "Other", "RCLONE_CONFIG_S_ENDPOINT": server.endpoint,
        "RCLONE_CONFIG_S_ACCESS_KEY_ID": server.access_key, "RCLONE_CONFIG_S_SECRET_ACCESS_KEY": server.secret_key,
    }  # fmt: skip
    inherited = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}  # rclone trips over it
    subprocess.run(["rclone", "--config=", *arguments], check=True, env=inherited | environment)


def measure(folder: Path, server: S3Server, megabytes: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Both directions, both sides, in turn; the first round does not count."""
    storage = Storage(endpoint=server.endpoint)
    adapters = open_store("s3://adapters/bench", storage)
    target, adapter = folder / "target", folder / "adapter_model.safetensors"
    sides: dict[str, tuple[int, dict[str, Callable[[], object]]]] = {
        "download": (
            megabytes,
            {
                "ours": lambda: fetch_model(Model(uri="s3://models/bench"), storage, target, lambda _: None),
                "rclone": lambda: rclone(server, "copy", "S:models/bench", str(target)),
            },
        ),
        "upload": (
            megabytes // 6,
            {
                "ours": lambda: adapters.upload(adapter, "ours/adapter_model.safetensors"),
                "rclone": lambda: rclone(server, "copyto", str(adapter), "S:adapters/bench/rclone"),
            },
        ),
    }
    found: dict[str, dict[str, list[float]]] = {}
    for direction, (size, both) in sides.items():
        found[direction] = {name: [] for name in both}
        for round_ in range(repeats + 1):
            for name, move in both.items():
                shutil.rmtree(target, ignore_errors=True)
                adapters.delete("rclone")  # it would not copy what is there
                start = time.perf_counter()
                move()
                rate = size / (time.perf_counter() - start)
                if round_:
                    found[direction][name].append(round(rate, 1))
                    print(f"  {direction}: {name}: {rate:.0f} MB/s", flush=True)
    return found


def run(megabytes: int, repeats: int) -> dict[str, object]:
    """Start a server, measure, and stop it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make(folder, megabytes)
        before = Load.now(os.getpid())
        with start_server(folder / "s3") as server:
            os.environ |= server.environment()
            client = boto3.client("s3", **server.client_arguments())
            for file in (folder / "model").iterdir():
                client.upload_file(str(file), "models", f"bench/{file.name}")
            found = measure(folder, server, megabytes, repeats)
        return {**found, "others_cores": round(Load.now(os.getpid()).others_since(before), 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=600, help="size of the model (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="after one that does not count (default: %(default)s)")
    options = parser.parse_args()
    found = run(options.megabytes, options.repeats)
    print(json.dumps(found))
    for direction in ("download", "upload"):
        rates = found[direction]
        assert isinstance(rates, dict)
        print(direction, {name: round(value, 2) for name, value in ratios(rates["ours"], rates["rclone"]).items()})


if __name__ == "__main__":
    main()
