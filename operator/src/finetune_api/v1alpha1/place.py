"""Where a run happens, and when to give up."""

import re
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import (
    KEY_OR_NONE,
    LABEL_KEY,
    LIST_ATOMIC,
    LabelValue,
    Object,
    ObjectName,
    Quantity,
    Rule,
    Seconds,
    Size,
)

Labels = Annotated[dict[str, LabelValue], Field(max_length=32)]


def _are_keys(labels: dict[str, LabelValue]) -> bool:
    return all(re.fullmatch(LABEL_KEY, key) for key in labels)


SELECTOR_RULE = Rule(
    cel=f"self.nodeSelector.all(key, key.matches('{LABEL_KEY}'))",
    holds=lambda resources: _are_keys(resources.node_selector),
    message="nodeSelector has a key that no label can have; write it as kubectl get nodes --show-labels does",
    field="nodeSelector",
)


class Toleration(Object):
    """A toleration of the trainer's pod, as in core/v1."""

    rules = (
        Rule(
            cel="(has(self.key) && self.key != '') || self.operator == 'Exists'",
            holds=lambda t: bool(t.key) or t.operator == "Exists",
            message="a toleration without a key is for every taint; set operator: Exists",
            field="operator",
        ),
        Rule(
            cel="self.operator != 'Exists' || !has(self.value) || self.value == ''",
            holds=lambda t: t.operator != "Exists" or not t.value,
            message="operator Exists takes no value; remove it, or set operator: Equal",
            field="value",
        ),
    )
    key: Annotated[str, Field(pattern=KEY_OR_NONE, max_length=317)] | None = None
    """Taint key; none matches every key."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How value is compared."""
    value: LabelValue | None = None
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; none matches every effect."""


class PrepareResources(Object):
    """What the pod that prepares the data asks for: no GPU, on any node unless told otherwise."""

    rules = (SELECTOR_RULE,)
    cpu: Quantity = "1"
    """CPU request."""
    memory: Size = "4Gi"
    """Memory request and limit. Rows are streamed, so it need not grow with the dataset."""
    node_selector: Labels = {}
    """Labels a node must carry."""


class Resources(Object):
    """What a pod of the trainer asks for and where it may run."""

    rules = (SELECTOR_RULE,)
    gpus: Annotated[int, Field(ge=0, le=16)] = 1
    """GPUs of each pod that trains, one process each; 0 trains on the CPU."""
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Pods that train together, each with the resources asked for here."""
    gpu_resource: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", max_length=128)] = "nvidia.com/gpu"
    """Extended resource that stands for one GPU."""
    gpu_memory: Size | None = None
    """Memory of one GPU, for instance 24Gi. A run that needs more than nine tenths of it, by our estimate, is refused
    before it holds one."""
    cpu: Quantity = "2"
    """CPU request. As many threads compute, rounded up."""
    memory: Size = "8Gi"
    """Memory request and limit."""
    shared_memory: Size = "1Gi"
    """Size of /dev/shm; counts against memory."""
    work_storage: Size = "50Gi"
    """Limit of the scratch volume that holds model, data and checkpoints during the run."""
    node_selector: Labels = {}
    """Labels a node must carry."""
    tolerations: Annotated[list[Toleration], Field(max_length=32, json_schema_extra=LIST_ATOMIC)] = []
    """Taints the pod tolerates."""
    runtime_class_name: ObjectName | None = None
    """RuntimeClass of the pod, for instance nvidia."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of the pod."""
    prepare: PrepareResources = PrepareResources()
    """What the pod that prepares the data asks for, before any GPU is."""

    @property
    def processes(self) -> int:
        """Processes that train together, on all nodes."""
        return max(1, self.gpus) * self.nodes


class Storage(Object):
    """Access to s3:// URIs."""

    secret_name: ObjectName | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN where needed. Unset: the pod's
    own identity (serviceAccountName)."""
    endpoint: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.\[\]:-]+(/.*)?$", max_length=512)] | None = None
    """URL of an S3-compatible server; unset means AWS."""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$", max_length=64)] = "us-east-1"
    """S3 region."""


class Deadlines(Object):
    """When to give up. All may change at any time; docs/status.md says what each clock counts."""

    pending_seconds: Seconds = 86_400
    """An attempt may wait so long for its containers to run: for a node, an image, a Secret, a quota on pods. Final.
    Time in a queue of Kueue, and while suspend is true, does not count."""
    start_seconds: Seconds = 14_400
    """A container that trains may take so long to its first step, as far as its progress can be read. Retried."""
    stall_seconds: Seconds = 900
    """A trainer that has answered may be silent so long, and so may the node of a pod. Retried. A trainer that answers
    but stands still ends by itself: training.hangTimeoutSeconds."""
    active_seconds: Seconds | None = None
    """Time that containers may train, over all attempts: status.trainingSeconds. Final. Unset: no limit."""
