"""Put results into storage so that what is there is whole: a result exists when its manifest does and verifies.

publish               the adapter: every file, read back, manifest.json last
CheckpointStore       checkpoints of one job below `.finetune/<uid>/checkpoints/`, by the same law
check_writable        a probe for the first second of a run
"""

from finetune_trainer.publish.checkpoints import CheckpointStore
from finetune_trainer.publish.manifest import publish
from finetune_trainer.publish.preflight import check_writable

__all__ = ["CheckpointStore", "check_writable", "publish"]
