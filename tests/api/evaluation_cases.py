"""Job files about evaluation and extensions, and their verdicts: the other half of the table in cases.py."""

from tests.api.cases import Case, _job

HELD_OUT = "train: {uri: s3://datasets/train.jsonl}, evaluation: {uri: s3://datasets/eval.jsonl}"


def _evaluated(evaluation: str) -> str:
    """A job with held-out rows."""
    return _job(f"evaluation: {{{evaluation}}}", dataset=HELD_OUT)


ACCEPTED = [
    Case("evaluation by epochs", _evaluated("everyEpochs: 2")),
    Case("checkpoints by epochs", _job("training: {checkpoints: {everyEpochs: 1}}")),
    Case("early stopping by steps", _evaluated("everySteps: 10, earlyStopping: {}")),
    Case(
        "early stopping and the best model",
        _evaluated("everyEpochs: 1, earlyStopping: {patience: 2, minDelta: '0.01'}, keepBest: true, metric: accuracy"),
    ),
    Case("a gate", _evaluated("gate: {mustImprove: true, maxLoss: '1.5', minAccuracy: '0.9'}")),
    Case("smoothed labels", _job("training: {labelSmoothing: '0.1'}")),
    Case("extensions", _job("extensions: {callbacks: [step-times, a.b_c], metrics: [bleu]}")),
    Case("a model factory", _job("method: {type: LoRA}\nextensions: {model: mine}")),
    Case(
        "all trackers",
        _job(
            "training: {trackers: [{type: TensorBoard}, {type: MLflow, uri: 'https://mlflow.local:5000/x', "
            "project: support, secretName: mlflow}, {type: WandB, project: team/a b}, {type: Trackio}]}"
        ),
    ),
    Case("a debugger", _job("debug: {debugpy: {}}")),
    Case("a debugger that waits for nobody", _job("debug: {debugpy: {port: 6000, wait: false}}")),
]

REFUSED = [
    Case(
        "the best of several nodes",
        _job("evaluation: {everySteps: 5, keepBest: true}\nresources: {nodes: 2}", dataset=HELD_OUT),
        "spec.evaluation.keepBest",
    ),
    Case("evaluation by steps and epochs", _evaluated("everySteps: 5, everyEpochs: 1"), "spec.evaluation.everyEpochs"),
    Case("an evaluation every 0 epochs", _evaluated("everyEpochs: 0"), "spec.evaluation.everyEpochs"),
    Case(
        "a checkpoint every 0 epochs",
        _job("training: {checkpoints: {everyEpochs: 0}}"),
        "spec.training.checkpoints.everyEpochs",
    ),
    Case("early stopping without a schedule", _evaluated("earlyStopping: {}"), "spec.evaluation.earlyStopping"),
    Case("the best of none", _evaluated("keepBest: true"), "spec.evaluation.keepBest"),
    Case("patience of 0", _evaluated("everySteps: 5, earlyStopping: {patience: 0}"), "spec.evaluation.earlyStopping"),
    Case(
        "a delta that is a number",
        _evaluated("everySteps: 5, earlyStopping: {minDelta: 0.1}"),
        "spec.evaluation.earlyStopping.minDelta",
    ),
    Case("a metric with a blank", _evaluated("metric: 'my metric'"), "spec.evaluation.metric"),
    Case(
        "early stopping without held-out rows",
        _job("evaluation: {everySteps: 5, earlyStopping: {}}"),
        "spec.evaluation.earlyStopping",
    ),
    Case(
        "the best without held-out rows",
        _job("evaluation: {everySteps: 5, keepBest: true}"),
        "spec.evaluation.keepBest",
    ),
    Case("a gate without held-out rows", _job("evaluation: {gate: {maxLoss: '1'}}"), "spec.evaluation.gate"),
    Case("a gate that asks for nothing", _evaluated("gate: {}"), "spec.evaluation.gate"),
    Case("an accuracy above one", _evaluated("gate: {minAccuracy: '1.1'}"), "spec.evaluation.gate.minAccuracy"),
    Case("all of a label smoothed", _job("training: {labelSmoothing: '1'}"), "spec.training.labelSmoothing"),
    Case("an extension with a blank", _job("extensions: {metrics: ['a b']}"), "spec.extensions.metrics"),
    Case("an extension of no name", _job("extensions: {model: ''}"), "spec.extensions.model"),
    Case(
        "too many callbacks",
        _job(f"extensions: {{callbacks: [{', '.join(f'c{n}' for n in range(17))}]}}"),
        "spec.extensions.callbacks",
    ),
    Case("a factory for a quantized base", _job("extensions: {model: mine}"), "spec.extensions.model"),
    Case("an unknown tracker", _job("training: {trackers: [{type: Comet}]}"), "spec.training.trackers"),
    Case("a tracker twice", _job("training: {trackers: [{type: WandB}, {type: WandB}]}"), "spec.training.trackers"),
    *(
        Case(
            f"W&B's project {name}",
            _job(f"training: {{trackers: [{{type: WandB, project: {name}}}]}}"),
            "spec.training.trackers",
        )
        for name in ("team/", "team/support/bot", "team//bot")
    ),
    Case("MLflow without a server", _job("training: {trackers: [{type: MLflow}]}"), "spec.training.trackers"),
    Case(
        "a project of TensorBoard's",
        _job("training: {trackers: [{type: TensorBoard, project: a}]}"),
        "spec.training.trackers",
    ),
    Case(
        "a tracker without http",
        _job("training: {trackers: [{type: MLflow, uri: 'file:///tmp'}]}"),
        "spec.training.trackers",
    ),
    Case("a debugger on port 80", _job("debug: {debugpy: {port: 80}}"), "spec.debug.debugpy.port"),
]
