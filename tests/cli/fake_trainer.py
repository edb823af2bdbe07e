"""Stands in for the trainer, in milliseconds: obeys its command line, and ends as told by the environment."""

import os
import signal
import sys
import time
from pathlib import Path

from finetune_api.names import ActiveReason
from finetune_api.outcome import Outcome, Reason
from finetune_api.progress import Progress

arguments = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
folder = Path(arguments["--work-dir"])
signals: list[int] = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: signals.append(number))

sys.stdout.write("the trainer speaks\n")
sys.stdout.flush()
progress = Progress(phase=ActiveReason.TRAINING, step=3, total_steps=9, loss=1.2345, eta_seconds=70)
(folder / "progress.json").write_text(progress.model_dump_json(by_alias=True))
reason = os.environ["FAKE_REASON"]
while reason == Reason.PREEMPTED and not signals:
    time.sleep(0.01)
time.sleep(0.3)  # a checkpoint takes its time
(folder / "signals").write_text(" ".join(str(int(number)) for number in signals))
if reason == "none":
    sys.exit(70)
measured = {"metrics_before": {"accuracy": 0.5}, "metrics_after": {"accuracy": 0.75, "macroF1": 2 / 3}}
outcome = Outcome(reason=Reason(reason), message="the message", hint="the hint", step=3, **measured)
Path(arguments["--termination-log"]).write_text(outcome.to_termination_message())
sys.exit(outcome.reason.exit_code)
