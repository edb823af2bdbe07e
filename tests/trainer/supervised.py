"""Runs the trainer's PID 1 over a worker made of a few lines: a helper of the test_supervisor_ tests, run as a program.

    python supervised.py WORKER OPTIONS OF THE TRAINER

WORKER is Python code; it sees `say` (writes one line to stdout at once), `work` (the scratch folder) and `finish`
(writes an outcome). It imports nothing of the project, to start quickly. TEST_LOST_SECONDS is how long another node may
be silent.
"""

import os
import sys

from finetune_trainer.__main__ import leave, main
from finetune_trainer.supervisor import peers, supervise

PRELUDE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
work = Path(os.environ["TEST_WORK"])
def finish(reason, message, step):
    (work / "outcome.json").write_text(json.dumps({"reason": reason, "message": message, "step": step}))
def say(*words):
    print(*words, flush=True)
"""

if __name__ == "__main__":
    if seconds := os.environ.get("TEST_LOST_SECONDS"):
        peers.LOST_SECONDS, supervise.ALONE_SECONDS, supervise._STACKS_SECONDS = float(seconds), 0.5, 0.1
    leave(main(sys.argv[2:], command=[sys.executable, "-c", PRELUDE + sys.argv[1]]))
