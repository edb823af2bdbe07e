"""Where a run happens and what it asks for: quantities, labels of nodes, taints."""

from tests.api.jobtext import Case
from tests.api.jobtext import job as _job

ACCEPTED = [
    Case("an integer as a quantity", _job("resources: {gpus: 0, cpu: 2, memory: 6Gi}")),
    Case(
        "half a gibibyte, and no CPU",
        _job("resources: {gpus: 0, cpu: 0, memory: 0.50Gi, prepare: {cpu: '0', memory: 1073741824}}"),
    ),
    Case(
        "nodes by their labels and taints",
        _job(
            "resources: {nodeSelector: {topology.kubernetes.io/zone: a, gpu: ''}, "
            "tolerations: [{operator: Exists}, {key: '', operator: Exists, value: ''}, "
            "{key: nvidia.com/gpu, operator: Exists}, {key: team, value: ml}]}"
        ),
    ),
]

REFUSED = [
    Case("less than no CPU", _job("resources: {cpu: -1}"), "spec.resources.cpu"),
    Case("no memory", _job("resources: {memory: 0}"), "spec.resources.memory"),
    Case("no memory, in words", _job("resources: {memory: 0.0Gi}"), "spec.resources.memory"),
    Case("no disk", _job('resources: {workStorage: "0"}'), "spec.resources.workStorage"),
    Case("no memory to prepare", _job("resources: {prepare: {memory: 0Gi}}"), "spec.resources.prepare.memory"),
    Case("no label's key", _job("resources: {nodeSelector: {'not a label': x}}"), "spec.resources.nodeSelector"),
    Case("a label's key of two parts", _job("resources: {nodeSelector: {a/b/c: x}}"), "spec.resources.nodeSelector"),
    Case(
        "no label's key to prepare",
        _job("resources: {prepare: {nodeSelector: {-a: x}}}"),
        "spec.resources.prepare.nodeSelector",
    ),
    Case(
        "a label's key with an empty part",
        _job("resources: {nodeSelector: {a..b/c: x}}"),
        "spec.resources.nodeSelector",
    ),
    Case("a toleration of an empty key", _job("resources: {tolerations: [{key: ''}]}"), "spec.resources.tolerations"),
    Case(
        "a quantity of 26 characters", _job("resources: {memory: 1.0000000000000000000000Gi}"), "spec.resources.memory"
    ),
    Case("no label's value", _job("resources: {nodeSelector: {zone: a b}}"), "spec.resources.nodeSelector.zone"),
    Case("a toleration of nothing", _job("resources: {tolerations: [{value: x}]}"), "spec.resources.tolerations"),
    Case(
        "a toleration of any value but one",
        _job("resources: {tolerations: [{key: gpu, operator: Exists, value: x}]}"),
        "spec.resources.tolerations",
    ),
    Case("no taint's key", _job("resources: {tolerations: [{key: a b}]}"), "spec.resources.tolerations"),
    Case("a quantity that is none", _job("resources: {memory: lots}"), "spec.resources.memory"),
    Case("a quantity with the end of a line", _job('resources: {memory: "8Gi\\n"}'), "spec.resources.memory"),
]
