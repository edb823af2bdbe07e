"""Put results into storage so that what is there is whole: a result exists when its manifest does and verifies.

publish               the adapter: every file, read back, manifest.json last
CheckpointStore       checkpoints of one job below `.finetune/<uid>/checkpoints/`, by the same law
Outbox                hands checkpoints from the worker to PID 1, which uploads them
check_writable        a probe for the first second of a run
abort_leftovers       half uploads of an attempt that was killed
"""

from finetune_trainer.publish.checkpoints import CheckpointStore, check_resumable
from finetune_trainer.publish.manifest import publish
from finetune_trainer.publish.outbox import Outbox, Parcel
from finetune_trainer.publish.preflight import abort_leftovers, check_writable

__all__ = ["CheckpointStore", "Outbox", "Parcel", "abort_leftovers", "check_resumable", "check_writable", "publish"]
