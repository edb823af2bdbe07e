"""`python -m finetune_operator`: the operator's process."""

import argparse
import logging
import os
import sys

from finetune_operator import logs
from finetune_operator.errors import SettingsError
from finetune_operator.settings import Settings, help_text, variable

_logger = logging.getLogger("finetune_operator")


def main() -> int:
    """Run the operator; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m finetune_operator",
        description="Runs FineTuneJobs. Uses the pod's ServiceAccount, or KUBECONFIG outside a pod.",
        epilog=help_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        logs.set_up(os.environ.get(variable("log_format"), ""), "INFO")
        _logger.critical("%s\nSee python -m finetune_operator --help.", error)
        return 2
    from finetune_operator.main import serve  # noqa: PLC0415 - help and bad settings need no kopf

    return serve(settings)


if __name__ == "__main__":
    sys.exit(main())
