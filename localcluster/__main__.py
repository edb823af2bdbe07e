"""The command line: python -m localcluster COMMAND, from the repository root."""

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Sequence

from localcluster import binaries, console, images, lifecycle, requirements
from localcluster.errors import LocalClusterError
from localcluster.state import DEFAULT_DIR, Paths

DESCRIPTION = f"""A real Kubernetes on this machine, without Docker, for the demo and the cluster tests.

  python -m localcluster up             build the programs (once), then start everything (5 s)
  eval "$(python -m localcluster env)"  kubectl, helm and any S3 client now speak to it
  kubectl get nodes
  python -m localcluster images         build the project's two images and load them; again after a code change
  python -m localcluster down           stop everything; images and programs are kept

All state is in one folder: LOCALCLUSTER_DIR, by default {DEFAULT_DIR}.
Logs are in its run/log, builds' in logs-build, those of a failed start in logs-last-failure."""

Command = Callable[[Paths, argparse.Namespace], int]


def _up(paths: Paths, options: argparse.Namespace) -> int:
    if options.install:
        requirements.install(paths)
    if options.images:
        requirements.check(paths, images=True)
        with images.built_meanwhile():
            binaries.ensure(paths)
    lifecycle.up(paths)
    return 0


def _down(paths: Paths, options: argparse.Namespace) -> int:
    lifecycle.down(paths, purge=options.purge)
    return 0


def _status(paths: Paths, _: argparse.Namespace) -> int:
    status = lifecycle.status(paths)
    for name, runs in status.programs.items():
        print(f"{name:24} {'running' if runs else 'not running'}")
    print(f"{'cluster':24} {'healthy' if status.healthy else 'broken' if status.anything else 'down'}")
    return 0 if status.healthy else 1


def _kubeconfig(paths: Paths, _: argparse.Namespace) -> int:
    lifecycle.environment(paths)  # says so when the cluster is down
    print(paths.kubeconfig.read_text())
    return 0


def _env(paths: Paths, _: argparse.Namespace) -> int:
    for name, value in lifecycle.environment(paths).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _binaries(paths: Paths, options: argparse.Namespace) -> int:
    print(binaries.ensure(paths, options.only or [module.name for module in binaries.MODULES]))
    return 0


def _images(paths: Paths, options: argparse.Namespace) -> int:
    requirements.check(paths, images=True)
    images.build_and_load(paths, options.names)
    return 0


def _requirements(paths: Paths, options: argparse.Namespace) -> int:
    if options.install:
        requirements.install(paths)
    requirements.check(paths, images=True)
    console.say("This machine has what the cluster and the image builds need.")
    return 0


COMMANDS: dict[str, tuple[Command, str]] = {
    "up": (_up, "start the cluster; does nothing when it is healthy, cleans up first when it is broken"),
    "down": (_down, "stop everything that `up` started, however much of it there is"),
    "status": (_status, "say what runs; exit code 0 only when the cluster is healthy"),
    "env": (_env, "print export lines for a shell: KUBECONFIG, PATH, AWS_..."),
    "kubeconfig": (_kubeconfig, "print the administrator's kubeconfig"),
    "binaries": (_binaries, "build the programs from their Go modules, if they are not there; print their folder"),
    "images": (_images, "build the operator's and the trainer's image and load them into the cluster"),
    "requirements": (_requirements, "check this machine; with --install get what is missing, by apt-get"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m localcluster", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {name: commands.add_parser(name, help=text, description=text) for name, (_, text) in COMMANDS.items()}
    parsers["down"].add_argument(
        "--purge", action="store_true", help="also remove the images, their build cache and all logs; not the programs"
    )
    parsers["images"].add_argument(
        "names", nargs="*", metavar="NAME", help=f"only these of: {', '.join(images.IMAGES)}"
    )
    parsers["binaries"].add_argument(
        "--only", action="append", default=[], choices=[module.name for module in binaries.MODULES],
        help="only the programs of this module; may be given several times",
    )  # fmt: skip
    parsers["up"].add_argument(
        "--images", action="store_true", help="also build the images, side by side with the rest"
    )
    for name in ("up", "requirements"):
        parsers[name].add_argument("--install", action="store_true", help="first apt-get install what is missing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 1 something failed, 2 this machine lacks something, 130 Ctrl-C."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated command cleans up like an interrupted one
    try:
        return COMMANDS[options.command][0](Paths.default(), options)
    except LocalClusterError as error:
        print(f"\nlocalcluster {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\nlocalcluster {options.command}: interrupted; the same command works again.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
