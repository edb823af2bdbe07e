"""Runs the trainer's PID 1 over a worker made of a few lines: a helper of the test_supervisor_ tests, run as a program.

    python supervised.py WORKER OPTIONS OF THE TRAINER

WORKER is Python code; it sees `say` (writes one line to stdout at once), `work` (the scratch folder) and `finish`
(writes an outcome). It imports nothing of the project, to start quickly.
"""

import sys

from finetune_trainer.__main__ import leave, main

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
    leave(main(sys.argv[2:], command=[sys.executable, "-c", PRELUDE + sys.argv[1]]))
