"""Cases of spec.training.parallelism: who shares what, and what does not go with it."""

from tests.api.jobtext import Case, job


def _sharded(strategy: str, method: str, training: str = "seed: 1") -> str:
    """A job of two GPUs with that strategy."""
    return job(f"{method}\ntraining: {{parallelism: {{strategy: {strategy}}}, {training}}}\nresources: {{gpus: 2}}")


ACCEPTED = [
    Case("sharded weights", job("training: {parallelism: {strategy: ZeRO3}}\nresources: {gpus: 2}")),
    Case(
        "shared optimizer state with a whole module",
        job("method: {modulesToSave: [lm_head]}\ntraining: {parallelism: {strategy: ZeRO2}}\nresources: {gpus: 4}"),
    ),
    Case(
        "a base shared out as it is read",
        job("method: {type: LoRA}\ntraining: {parallelism: {strategy: FSDP}}\nresources: {gpus: 2}"),
    ),
    Case(
        "shares over several nodes", job("training: {parallelism: {strategy: ZeRO2}}\nresources: {gpus: 2, nodes: 2}")
    ),
    Case(
        "shares over nodes of one GPU",
        job("method: {type: LoRA}\ntraining: {parallelism: {strategy: FSDP}}\nresources: {nodes: 2}"),
    ),
    Case("parallelism left at its default", job("training: {parallelism: {}}")),
]

REFUSED = [
    Case(
        "a strategy that nobody knows", job("training: {parallelism: {strategy: ZeRO1}}"), "spec.training.parallelism"
    ),
    Case("our own DeepSpeed", job("training: {parallelism: {deepspeed: {stage: 3}}}"), "spec.training.parallelism"),
    Case("nobody to share with", job("training: {parallelism: {strategy: ZeRO2}}"), "spec.training.parallelism"),
    Case("IA3 shared out", _sharded("ZeRO2", "method: {type: IA3}"), "spec.training.parallelism"),
    Case("DoRA on a share", _sharded("ZeRO3", "method: {useDoRA: true}"), "spec.training.parallelism"),
    Case("a whole module of a share", _sharded("FSDP", "method: {modulesToSave: [a]}"), "spec.training.parallelism"),
    Case(
        "PiSSA of a share", _sharded("FSDP", "method: {type: LoRA, initialization: PiSSA}"), "spec.training.parallelism"
    ),
    Case("FSDP of 4 bits", _sharded("FSDP", "method: {type: QLoRA}"), "spec.training.parallelism"),
    Case(
        "shares of a translation",
        job("task: {type: Seq2SeqLM}\ntraining: {parallelism: {strategy: ZeRO2}}\nresources: {gpus: 2}"),
        "spec.task.type",
    ),
    Case("a share of INT8", _sharded("ZeRO3", "method: {quantization: {type: INT8}}"), "spec.training.parallelism"),
    Case(
        "a share of an 8-bit optimizer",
        _sharded("ZeRO3", "method: {}", "optimizer: {type: AdamW8bit}"),
        "spec.training.optimizer.type",
    ),
    Case("LoRA+ on shares", _sharded("ZeRO2", "method: {loraPlusRatio: '4'}"), "spec.method.loraPlusRatio"),
    Case("half precision of a share", _sharded("FSDP", "method: {type: LoRA}", "precision: Float16"), "spec.training"),
]
