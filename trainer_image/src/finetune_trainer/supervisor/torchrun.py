"""torchrun, run as a program of its own: `python -m finetune_trainer.supervisor.torchrun ARGUMENTS OF TORCHRUN`.

It differs in how it ends: with the exit code of the first worker that failed (128 + signal where one killed it), and
without a traceback of its own, for the worker's outcome says what happened. It ends with the supervisor, too.
https://docs.pytorch.org/docs/stable/elastic/run.html
"""

import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from finetune_trainer.supervisor import processes


def main(argv: list[str]) -> int:
    """Run the workers and return the exit code."""
    processes.die_with_parent()
    try:
        run(parse_args(argv))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return 128 - failure.exitcode if failure.exitcode < 0 else failure.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
