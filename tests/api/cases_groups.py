"""Cases of what learns at a rate, or decays, of its own; and of an optimizer that is not offered."""

from tests.api.jobtext import Case, job


def _groups(*groups: str, rest: str = "") -> str:
    return job(f"training: {{parameterGroups: [{', '.join(groups)}]}}\n{rest}")


ACCEPTED = [
    Case("no group", _groups()),
    Case("a rate for one module", _groups("{modules: [lm_head], learningRate: '1e-3'}")),
    Case("a decay for two", _groups("{modules: [q_proj, layers.0], weightDecay: '0'}")),
    Case(
        "groups and LoRA+",
        _groups("{modules: [mlp], learningRate: '1', weightDecay: '0.1'}", rest="method: {loraPlusRatio: '8'}"),
    ),
    Case("sixteen groups", _groups(*(f"{{modules: [layers.{n}], learningRate: '1e-4'}}" for n in range(16)))),
]
REFUSED = [
    Case("a group of no module", _groups("{modules: [], learningRate: '1e-3'}"), "spec.training.parameterGroups"),
    Case("a group that names none", _groups("{learningRate: '1e-3'}"), "spec.training.parameterGroups"),
    Case("a group as all others", _groups("{modules: [lm_head]}"), "spec.training.parameterGroups"),
    Case("a group that stands", _groups("{modules: [a], learningRate: '0'}"), "spec.training.parameterGroups"),
    Case("a group that leaps", _groups("{modules: [a], learningRate: '1.5'}"), "spec.training.parameterGroups"),
    Case("a bare rate of a group", _groups("{modules: [a], learningRate: 1e-3}"), "spec.training.parameterGroups"),
    Case("a group that grows", _groups("{modules: [a], weightDecay: '-1'}"), "spec.training.parameterGroups"),
    Case("a pattern of modules", _groups("{modules: ['layers.*'], weightDecay: '1'}"), "spec.training.parameterGroups"),
    Case("a module twice in a group", _groups("{modules: [a, a], weightDecay: '1'}"), "spec.training.parameterGroups"),
    Case("a target module twice", job("method: {targetModules: [a, b, a]}"), "spec.method.targetModules"),
    Case("a whole module twice", job("method: {modulesToSave: [a, a]}"), "spec.method.modulesToSave"),
    Case("a metric twice", job("extensions: {metrics: [a, a]}"), "spec.extensions.metrics"),
    Case("GaLore", job("training: {optimizer: {type: GaLoreAdamW}}"), "spec.training.optimizer.type"),
    Case("momentum of a group", _groups("{modules: [a], beta1: '0.9'}"), "spec.training.parameterGroups"),
    Case(
        "seventeen groups",
        _groups(*(f"{{modules: [layers.{n}], learningRate: '1e-4'}}" for n in range(17))),
        "spec.training.parameterGroups",
    ),
    Case(
        "groups that ZeRO would flatten",
        job(
            "training: {parallelism: {strategy: ZeRO2}, parameterGroups: [{modules: [a], learningRate: '1e-3'}]}\n"
            "resources: {gpus: 2}"
        ),
        "spec.training.parameterGroups",
    ),
]
