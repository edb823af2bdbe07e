"""One table of FineTuneJobs with their verdicts. Two judges must agree on it: the Python models and a real API server.

A case is YAML text, because part of what is judged is how scalars are read.
"""

from tests.api import cases_groups, cases_parallelism, cases_place, cases_queue, taskcases
from tests.api.cases_output import ACCEPTED as ACCEPTED_OUTPUTS
from tests.api.cases_output import REFUSED as REFUSED_OUTPUTS
from tests.api.jobtext import Case
from tests.api.jobtext import job as _job

ACCEPTED = [
    *ACCEPTED_OUTPUTS,
    *cases_groups.ACCEPTED,
    *cases_parallelism.ACCEPTED,
    *cases_place.ACCEPTED,
    *cases_queue.ACCEPTED,
    Case("the smallest job", _job()),
    Case("a decimal string in quotes", _job('training: {learningRate: "2e-4"}')),
    Case("a decimal string without an exponent", _job("training: {learningRate: '0.001', weightDecay: '0.01'}")),
    Case("a null object takes its defaults", _job("training: null")),
    Case("a null number takes its default", _job("training: {epochs: null}")),
    Case("quantization with QLoRA", _job("method: {type: QLoRA, quantization: {doubleQuantization: false}}")),
    Case("LoRA with chosen modules", _job("method: {type: LoRA, targetModules: [q_proj, v_proj]}")),
    Case("INT8 with QLoRA", _job("method: {quantization: {type: INT8}}")),
    Case("FP4 packed into bfloat16", _job("method: {quantization: {type: FP4, storage: BFloat16}}")),
    Case(
        "LoRA with all its variants", _job("method: {type: LoRA, useRSLoRA: true, useDoRA: true, loraPlusRatio: '16'}")
    ),
    Case("LoRA from the base's own directions", _job("method: {type: LoRA, initialization: PiSSA}")),
    Case("AdaLoRA down to rank 4", _job("method: {type: AdaLoRA, rank: 8, targetRank: 4}")),
    Case("IA3 on a quantized base", _job("method: {type: IA3, quantization: {type: NF4}}")),
    Case("a whole module beside the adapter", _job("method: {modulesToSave: [lm_head]}")),
    Case("ten virtual tokens", _job("method: {type: PromptTuning, virtualTokens: 10}")),
    Case("a prefix", _job("method: {type: PrefixTuning}")),
    Case("p-tuning", _job("method: {type: PTuning, quantization: {type: INT8}}")),
    Case("an 8-bit optimizer", _job("training: {optimizer: {type: AdamW8bit, beta2: '0.99', epsilon: '1e-6'}}")),
    Case("SGD", _job("training: {optimizer: {type: SGD}}")),
    Case(
        "a schedule with a floor",
        _job("training: {scheduler: CosineWithMinLR, schedulerOptions: {minLearningRateRatio: '0.1'}, warmupSteps: 5}"),
    ),
    Case("an adapter to train on", _job(model="uri: s3://models/tiny, adapter: {uri: s3://adapters/first}")),
    Case("every weight", _job("method: {type: Full}")),
    Case(
        "rows of three sources",
        _job(
            dataset="train: {uri: s3://datasets/a, weight: '2', more: [{uri: s3://datasets/b/, weight: '0.25'}, "
            "{uri: pvc://data/c}]}, evaluation: {uri: s3://datasets/d, more: [{uri: s3://datasets/e}]}"
        ),
    ),
    Case(
        "a micro-batch that fills the GPU",
        _job("training: {autoMicroBatchSize: true}\nresources: {gpuMemory: 24Gi}"),
    ),
    Case("no thinking", _job(dataset="train: {uri: s3://datasets/a}, chatTemplateKwargs: {enable_thinking: 'false'}")),
    Case("noise on embeddings", _job("training: {neftuneNoiseAlpha: '5'}")),
    Case("more arguments", _job("training: {extraArguments: {torch_empty_cache_steps: '10'}}")),
    Case("a name of 52 characters", _job(metadata="name: " + "a" * 52)),
    Case("a model on a volume", _job(model="uri: pvc://models/llama")),
    Case("a model on a hub with a revision", _job(model="uri: hf://owner/name, revision: main")),
    Case("a batch for all GPUs of all nodes", _job("training: {batchSize: 24}\nresources: {gpus: 4, nodes: 3}")),
    Case("as many nodes as there may be", _job("training: {batchSize: 64}\nresources: {gpus: 0, nodes: 64}")),
    Case("a batch of whole micro-batches", _job("training: {batchSize: 12, microBatchSize: 4}")),
    Case("a prefix of rows", _job(dataset="train: {uri: s3://datasets/rows/}")),
    Case("a pattern of rows", _job(dataset="train: {uri: 'pvc://data/rows/part-*.jsonl.gz'}")),
    Case("a pattern of rows on a hub", _job(dataset="train: {uri: 'hf://datasets/owner/name/data/*.parquet'}")),
    Case(
        "a dataset with everything said",
        _job(
            dataset="train: {uri: s3://datasets/a.csv}, format: ShareGPT, columns: {conversations: talk, inputIds: i}, "
            "roles: {Kunde: user, bot: assistant}, trainOn: LastAssistant, overlong: Truncate, "
            "invalidRows: {policy: Skip, maxPercent: 100}"
        ),
    ),
    Case("all of a text", _job(dataset="train: {uri: s3://datasets/a.txt}, format: Text, trainOn: All")),
    Case("nulls in a dataset", _job(dataset="train: {uri: s3://datasets/a}, columns: null, roles: null, format: null")),
    Case("packed sequences", _job("training: {packing: true, maxLength: 2048}")),
    Case("no fast paths", _job("training: {fastPaths: false}")),
    Case(
        "tolerations and a node selector",
        _job("resources: {tolerations: [{key: gpu, operator: Exists}], nodeSelector: {zone: a}}"),
    ),
    Case("checkpoints by steps and by the clock", _job("training: {checkpoints: {everySteps: 5, everySeconds: 600}}")),
    Case("a divergence that never ends a run", _job("training: {divergence: {factor: '0'}}")),
    Case(
        "divergence and hang with limits",
        _job("training: {divergence: {factor: '1.5', steps: 20}, hangTimeoutSeconds: 60}"),
    ),
    Case(
        "deadlines, retries and a ttl", _job("retries: 0\ndeadlines: {activeSeconds: 60}\nttlSecondsAfterFinished: 0")
    ),
    *taskcases.ACCEPTED,
]

REFUSED = [
    *REFUSED_OUTPUTS,
    *cases_groups.REFUSED,
    *cases_parallelism.REFUSED,
    *cases_place.REFUSED,
    *cases_queue.REFUSED,
    Case("no model", _job(model="").replace("  model: {}\n", ""), "spec.model"),
    Case("no model uri", _job(model="revision: main"), "spec.model.uri"),
    Case("no dataset", _job(dataset="").replace("  dataset: {}\n", ""), "spec.dataset"),
    Case("no training rows", _job(dataset="evaluation: {uri: s3://datasets/e.jsonl}"), "spec.dataset.train"),
    Case("a dataset from the web", _job(dataset="train: {uri: 'https://example.com/a'}"), "spec.dataset.train.uri"),
    Case("a pattern for a model", _job(model="uri: 's3://models/*'"), "spec.model.uri"),
    Case("an unknown format", _job(dataset="train: {uri: s3://datasets/a}, format: Alpaca"), "spec.dataset.format"),
    Case(
        "a column that we do not know",
        _job(dataset="train: {uri: s3://datasets/a}, columns: {passage: q}"),
        "spec.dataset.columns.passage",
    ),
    Case(
        "a column without a name",
        _job(dataset="train: {uri: s3://datasets/a}, columns: {text: ''}"),
        "spec.dataset.columns.text",
    ),
    Case(
        "a role that templates do not know",
        _job(dataset="train: {uri: s3://datasets/a}, roles: {bot: model}"),
        "spec.dataset.roles",
    ),
    Case(
        "too many roles",
        _job(dataset="train: {uri: s3://datasets/a}, roles: {" + ", ".join(f"r{n}: user" for n in range(17)) + "}"),
        "spec.dataset.roles",
    ),
    Case(
        "an unknown part to train on",
        _job(dataset="train: {uri: s3://datasets/a}, trainOn: User"),
        "spec.dataset.trainOn",
    ),
    Case(
        "the last assistant turn of a text",
        _job(dataset="train: {uri: s3://datasets/a}, format: Text, trainOn: LastAssistant"),
        "spec.dataset",
    ),
    Case(
        "an unknown way with long rows",
        _job(dataset="train: {uri: s3://datasets/a}, overlong: Wrap"),
        "spec.dataset.overlong",
    ),
    Case(
        "skipping without a limit",
        _job(dataset="train: {uri: s3://datasets/a}, invalidRows: {policy: Skip}"),
        "spec.dataset.invalidRows",
    ),
    Case(
        "a limit without skipping",
        _job(dataset="train: {uri: s3://datasets/a}, invalidRows: {maxPercent: 5}"),
        "spec.dataset.invalidRows",
    ),
    Case(
        "a limit of nothing",
        _job(dataset="train: {uri: s3://datasets/a}, invalidRows: {policy: Skip, maxPercent: 0}"),
        "spec.dataset.invalidRows.maxPercent",
    ),
    Case("no output", _job(output="").replace("  output: {}\n", ""), "spec.output"),
    Case("a model from the web", _job(model="uri: https://example.com/model"), "spec.model.uri"),
    Case("a local model in a cluster", _job(model="uri: file:///models/tiny"), "spec.model.uri"),
    Case("a bucket name in capitals", _job(output="uri: s3://Adapters/x"), "spec.output.uri"),
    Case("an output on a hub", _job(output="uri: hf://owner/name"), "spec.output.uri"),
    Case("a uri over its length", _job(output="uri: s3://adapters/" + "a" * 1100), "spec.output.uri"),
    Case("an unknown field", _job("training: {epoch: 3}"), "spec.training.epoch"),
    Case("an unknown field at the top of the spec", _job("optimizer: adam"), "spec.optimizer"),
    Case("an unquoted decimal", _job("training: {learningRate: 2e-4}"), "spec.training.learningRate"),
    Case("an unquoted plain decimal", _job("method: {dropout: 0.1}"), "spec.method.dropout"),
    Case("a decimal that is a word", _job("training: {learningRate: fast}"), "spec.training.learningRate"),
    Case("a negative decimal", _job("training: {weightDecay: '-1'}"), "spec.training.weightDecay"),
    Case("a learning rate of zero", _job("training: {learningRate: '0'}"), "spec.training.learningRate"),
    Case("a learning rate over one", _job("training: {learningRate: '2'}"), "spec.training.learningRate"),
    Case("a warm-up over the whole run", _job("training: {warmupRatio: '1'}"), "spec.training.warmupRatio"),
    Case("dropout of everything", _job("method: {dropout: '1.0'}"), "spec.method.dropout"),
    Case("an integer in quotes", _job("training: {epochs: '3'}"), "spec.training.epochs"),
    Case("a fraction of an epoch", _job("training: {epochs: 1.5}"), "spec.training.epochs"),
    Case("no epoch at all", _job("training: {epochs: 0}"), "spec.training.epochs"),
    Case(
        "a batch that micro-batches do not fill",
        _job("training: {batchSize: 10, microBatchSize: 4}"),
        "spec.training.batchSize",
    ),
    Case(
        "a batch that GPUs do not fill",
        _job("training: {batchSize: 6}\nresources: {gpus: 4}"),
        "spec.training.batchSize",
    ),
    Case(
        "a batch that nodes do not fill",
        _job("training: {batchSize: 8}\nresources: {gpus: 4, nodes: 3}"),
        "spec.training.batchSize",
    ),
    Case("no node", _job("resources: {nodes: 0}"), "spec.resources.nodes"),
    Case("too many nodes", _job("training: {batchSize: 65}\nresources: {nodes: 65}"), "spec.resources.nodes"),
    Case("rank zero", _job("method: {rank: 0}"), "spec.method.rank"),
    Case("a rank over its bound", _job("method: {rank: 5000}"), "spec.method.rank"),
    Case("an unknown method", _job("method: {type: Magic}"), "spec.method.type"),
    Case("a method in the wrong case", _job("method: {type: qlora}"), "spec.method.type"),
    Case("quantization without QLoRA", _job("method: {type: LoRA, quantization: {type: NF4}}"), "spec.method"),
    Case(
        "packing of INT8", _job("method: {quantization: {type: INT8, storage: BFloat16}}"), "spec.method.quantization"
    ),
    Case("a rank without LoRA", _job("method: {type: IA3, rank: 8}"), "spec.method.rank"),
    Case("an alpha without LoRA", _job("method: {type: PTuning, alpha: 8}"), "spec.method.alpha"),
    Case("dropout without LoRA", _job("method: {type: IA3, dropout: '0'}"), "spec.method.dropout"),
    Case("modules without LoRA", _job("method: {type: IA3, targetModules: [q_proj]}"), "spec.method.targetModules"),
    Case(
        "a whole module with a prompt", _job("method: {type: PTuning, modulesToSave: [a]}"), "spec.method.modulesToSave"
    ),
    Case("rank-stabilised AdaLoRA", _job("method: {type: AdaLoRA, useRSLoRA: true}"), "spec.method.useRSLoRA"),
    Case("DoRA with IA3", _job("method: {type: IA3, useDoRA: true}"), "spec.method.useDoRA"),
    Case("LoRA+ with AdaLoRA", _job("method: {type: AdaLoRA, loraPlusRatio: '4'}"), "spec.method.loraPlusRatio"),
    Case("LoRA+ that slows B down", _job("method: {loraPlusRatio: '0.5'}"), "spec.method.loraPlusRatio"),
    Case("a start for IA3", _job("method: {type: IA3, initialization: Gaussian}"), "spec.method.initialization"),
    Case("an unknown start", _job("method: {initialization: LoftQ}"), "spec.method.initialization"),
    Case("PiSSA on a quantized base", _job("method: {initialization: PiSSA}"), "spec.method.initialization"),
    Case("Orthogonal on a quantized base", _job("method: {initialization: Orthogonal}"), "spec.method.initialization"),
    Case(
        "an orthogonal start of odd rank",
        _job("method: {type: LoRA, initialization: Orthogonal, rank: 3}"),
        "spec.method.rank",
    ),
    Case(
        "PiSSA with DoRA",
        _job("method: {type: LoRA, initialization: PiSSA, useDoRA: true}"),
        "spec.method.initialization",
    ),
    Case(
        "PiSSA in 16 bits",
        _job("method: {type: LoRA, initialization: PiSSA}\ntraining: {precision: BFloat16}"),
        "spec.training.precision",
    ),
    Case("a target rank without AdaLoRA", _job("method: {targetRank: 4}"), "spec.method.targetRank"),
    Case("a target above the rank", _job("method: {type: AdaLoRA, rank: 4, targetRank: 8}"), "spec.method.targetRank"),
    Case(
        "an adapter from the web",
        _job(model="uri: s3://models/tiny, adapter: {uri: 'https://x/y'}"),
        "spec.model.adapter.uri",
    ),
    Case(
        "p-tuning without its network",
        _job("method: {type: PTuning}", model="uri: s3://models/tiny, adapter: {uri: s3://adapters/first}"),
        "spec.model.adapter",
    ),
    Case(
        "two starts",
        _job("method: {initialization: Gaussian}", model="uri: s3://models/tiny, adapter: {uri: s3://adapters/first}"),
        "spec.method.initialization",
    ),
    Case(
        "a quantized base for every weight", _job("method: {type: Full, quantization: {}}"), "spec.method.quantization"
    ),
    Case("a rank for every weight", _job("method: {type: Full, rank: 8}"), "spec.method.rank"),
    Case("nothing to prune", _job("method: {type: AdaLoRA, rank: 4, targetRank: 4}"), "spec.method.targetRank"),
    Case("AdaLoRA of one rank", _job("method: {type: AdaLoRA, rank: 1}"), "spec.method.rank"),
    Case("virtual tokens with LoRA", _job("method: {virtualTokens: 10}"), "spec.method.virtualTokens"),
    Case("no virtual token", _job("method: {type: PTuning, virtualTokens: 0}"), "spec.method.virtualTokens"),
    Case(
        "a prefix with checkpointing",
        _job("method: {type: PrefixTuning}\ntraining: {gradientCheckpointing: true}"),
        "spec.training.gradientCheckpointing",
    ),
    Case("an unknown optimizer", _job("training: {optimizer: {type: Adam}}"), "spec.training.optimizer.type"),
    Case(
        "momentum for Adafactor",
        _job("training: {optimizer: {type: Adafactor, beta1: '0.9'}}"),
        "spec.training.optimizer",
    ),
    Case("epsilon for SGD", _job("training: {optimizer: {type: SGD, epsilon: '1e-8'}}"), "spec.training.optimizer"),
    Case("a beta of one", _job("training: {optimizer: {beta1: '1'}}"), "spec.training.optimizer"),
    Case("an epsilon of zero", _job("training: {optimizer: {epsilon: '0'}}"), "spec.training.optimizer"),
    Case(
        "a paged optimizer without a GPU",
        _job("training: {optimizer: {type: PagedAdamW8bit}}\nresources: {gpus: 0}"),
        "spec.training.optimizer.type",
    ),
    Case(
        "LoRA+ with Adafactor",
        _job("method: {loraPlusRatio: '16'}\ntraining: {optimizer: {type: Adafactor}}"),
        "spec.method.loraPlusRatio",
    ),
    Case(
        "half precision on a CPU",
        _job("training: {precision: Float16}\nresources: {gpus: 0}"),
        "spec.training.precision",
    ),
    Case("two warm-ups", _job("training: {warmupSteps: 5, warmupRatio: '0.1'}"), "spec.training.warmupSteps"),
    Case("a warm-up of all steps", _job("training: {warmupSteps: 5, maxSteps: 5}"), "spec.training.warmupSteps"),
    Case(
        "a floor for Linear",
        _job("training: {scheduler: Linear, schedulerOptions: {minLearningRateRatio: '0.1'}}"),
        "spec.training.schedulerOptions",
    ),
    Case(
        "a floor above the peak",
        _job("training: {scheduler: CosineWithMinLR, schedulerOptions: {minLearningRateRatio: '1'}}"),
        "spec.training.schedulerOptions",
    ),
    Case(
        "a power for Cosine", _job("training: {schedulerOptions: {power: '2'}}"), "spec.training.schedulerOptions.power"
    ),
    Case("a power of zero", _job("training: {scheduler: Polynomial, schedulerOptions: {power: '0'}}"), "spec.training"),
    Case(
        "a decay for Cosine",
        _job("training: {schedulerOptions: {decayRatio: '0.2'}}"),
        "spec.training.schedulerOptions",
    ),
    Case(
        "a decay longer than the run",
        _job("training: {scheduler: WarmupStableDecay, schedulerOptions: {decayRatio: '2'}}"),
        "spec.training.schedulerOptions",
    ),
    Case("noise of nothing", _job("training: {neftuneNoiseAlpha: '0'}"), "spec.training.neftuneNoiseAlpha"),
    Case(
        "a number as an argument", _job("training: {extraArguments: {eval_delay: 1}}"), "spec.training.extraArguments"
    ),
    Case(
        "an argument with an endless name",
        _job(f"training: {{extraArguments: {{{'a' * 65}: '1'}}}}"),
        "spec.training.extraArguments",
    ),
    Case(
        "rows of no weight",
        _job(dataset="train: {uri: s3://datasets/a, more: [{uri: s3://datasets/b, weight: '0'}]}"),
        "spec.dataset.train.more",
    ),
    Case(
        "a weight above all", _job(dataset="train: {uri: s3://datasets/a, weight: '101'}"), "spec.dataset.train.weight"
    ),
    Case(
        "weights of held-out rows",
        _job(
            dataset="train: {uri: s3://datasets/a}, evaluation: {uri: s3://datasets/b, more: [{uri: s3://datasets/c, "
            "weight: '2'}]}"
        ),
        "spec.dataset.evaluation",
    ),
    Case(
        "a micro-batch that fills nobody knows what",
        _job("training: {autoMicroBatchSize: true}"),
        "spec.training.autoMicroBatchSize",
    ),
    Case(
        "a micro-batch that fills a GPU without one",
        _job("training: {autoMicroBatchSize: true}\nresources: {gpus: 0, gpuMemory: 24Gi}"),
        "spec.training.autoMicroBatchSize",
    ),
    Case(
        "tools for the template",
        _job(dataset="train: {uri: s3://datasets/a}, chatTemplateKwargs: {tools: '[]'}"),
        "spec.dataset.chatTemplateKwargs",
    ),
    Case(
        "a switch of the template that is no text",
        _job(dataset="train: {uri: s3://datasets/a}, chatTemplateKwargs: {enable_thinking: false}"),
        "spec.dataset.chatTemplateKwargs",
    ),
    Case("an unknown 4-bit type", _job("method: {quantization: {type: INT4}}"), "spec.method.quantization.type"),
    Case("no target module", _job("method: {targetModules: []}"), "spec.method.targetModules"),
    Case("a module name with a blank", _job("method: {targetModules: ['q proj']}"), "spec.method.targetModules"),
    Case("an unknown scheduler", _job("training: {scheduler: step}"), "spec.training.scheduler"),
    Case("an unknown precision", _job("training: {precision: fp8}"), "spec.training.precision"),
    Case("a row length of one token", _job("training: {maxLength: 1}"), "spec.training.maxLength"),
    Case("packing by a word", _job("training: {packing: bfd}"), "spec.training.packing"),
    Case("a negative seed", _job("training: {seed: -1}"), "spec.training.seed"),
    Case("no checkpoint kept", _job("training: {checkpoints: {keep: 0}}"), "spec.training.checkpoints.keep"),
    Case("a checkpoint every 0 s", _job("training: {checkpoints: {everySeconds: 0}}"), "spec.training.checkpoints"),
    Case(
        "a divergence of a loss that falls",
        _job("training: {divergence: {factor: '0.5'}}"),
        "spec.training.divergence.factor",
    ),
    Case("a divergence of one step", _job("training: {divergence: {steps: 1}}"), "spec.training.divergence.steps"),
    Case("a hang of no time", _job("training: {hangTimeoutSeconds: 0}"), "spec.training.hangTimeoutSeconds"),
    Case("too many GPUs", _job("resources: {gpus: 1000}"), "spec.resources.gpus"),
    Case("an address with the end of a line", _job(output='uri: "s3://adapters/bot\\n"'), "spec.output.uri"),
    Case("a GPU resource without a domain", _job("resources: {gpuResource: gpu}"), "spec.resources.gpuResource"),
    Case(
        "an unknown taint effect",
        _job("resources: {tolerations: [{key: a, effect: Never}]}"),
        "spec.resources.tolerations",
    ),
    Case("an endpoint without a scheme", _job("storage: {endpoint: 's3.local:9000'}"), "spec.storage.endpoint"),
    Case("a secret name in capitals", _job("storage: {secretName: Keys}"), "spec.storage.secretName"),
    Case("suspend as a word", _job("suspend: 'yes'"), "spec.suspend"),
    Case("a negative number of retries", _job("retries: -1"), "spec.retries"),
    Case("a deadline of no time", _job("deadlines: {activeSeconds: 0}"), "spec.deadlines.activeSeconds"),
    Case("a ttl of a fraction", _job("ttlSecondsAfterFinished: 1.5"), "spec.ttlSecondsAfterFinished"),
    Case("a name of 53 characters", _job(metadata="name: " + "a" * 53), "metadata.name"),
    Case("a name with a dot", _job(metadata="name: a.b"), "metadata.name"),
    Case("a name in capitals", _job(metadata="name: Case"), "metadata.name"),
    Case(
        "a list where an object stands", _job(dataset="").replace("  dataset: {}\n", "  dataset: [a]\n"), "spec.dataset"
    ),
    Case("a null without a default", _job("evaluation: {everySteps: null}"), "spec.evaluation.everySteps"),
    Case("no spec", "apiVersion: finetune.dev/v1alpha1\nkind: FineTuneJob\nmetadata: {name: case}\n", "spec"),
    *taskcases.REFUSED,
]
