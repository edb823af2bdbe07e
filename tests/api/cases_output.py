"""Cases of spec.output: merged models, and adapters for vLLM."""

from tests.api.jobtext import Case, job

_HELD_OUT = "train: {uri: s3://datasets/train.jsonl}, evaluation: {uri: s3://datasets/eval.jsonl}"

ACCEPTED = [
    Case("a merged model", job(dataset=_HELD_OUT, output="uri: s3://adapters/case, merge: {dtype: Float32}")),
    Case("an adapter for vLLM", job(output="uri: s3://adapters/case, vllm: {}")),
    Case(
        "an adapter of twice its rank for vLLM",
        job(
            "method: {type: LoRA, initialization: PiSSA, rank: 32}",
            output="uri: s3://adapters/case, vllm: {maxLoRARank: 64}",
        ),
    ),
    Case(
        "an output below the adapter that it goes on from",
        job(model="uri: s3://models/tiny, adapter: {uri: s3://adapters/a}", output="uri: s3://adapters/a/b"),
    ),
]

REFUSED = [
    Case("an output in place of the model", job(output="uri: s3://models/tiny"), "spec.output.uri"),
    Case("an output in place of the model, with a slash", job(output="uri: s3://models/tiny/"), "spec.output.uri"),
    Case(
        "an output in place of the adapter that it goes on from",
        job(model="uri: s3://models/tiny, adapter: {uri: s3://adapters/a/}", output="uri: s3://adapters/a"),
        "spec.output.uri",
    ),
    Case("a merge that nobody measures", job(output="uri: s3://adapters/case, merge: {}"), "spec.output.merge"),
    Case(
        "a merge of virtual tokens",
        job("method: {type: PTuning}", dataset=_HELD_OUT, output="uri: s3://adapters/case, merge: {}"),
        "spec.output.merge",
    ),
    Case(
        "a merge of every weight",
        job("method: {type: Full}", dataset=_HELD_OUT, output="uri: s3://adapters/case, merge: {}"),
        "spec.output.merge",
    ),
    Case(
        "a merge that keeps more than all",
        job(dataset=_HELD_OUT, output="uri: s3://adapters/case, merge: {minGainKeptPercent: 101}"),
        "spec.output.merge.minGainKeptPercent",
    ),
    Case(
        "a merge in 8 bits",
        job(dataset=_HELD_OUT, output="uri: s3://adapters/case, merge: {dtype: Int8}"),
        "spec.output.merge.dtype",
    ),
    Case(
        "DoRA for vLLM",
        job("method: {useDoRA: true}", output="uri: s3://adapters/case, vllm: {}"),
        "spec.output.vllm",
    ),
    Case(
        "a head for vLLM",
        job("method: {modulesToSave: [lm_head]}", output="uri: s3://adapters/case, vllm: {}"),
        "spec.output.vllm",
    ),
    Case("IA3 for vLLM", job("method: {type: IA3}", output="uri: s3://adapters/case, vllm: {}"), "spec.output.vllm"),
    Case(
        "more rank than vLLM is started with",
        job("method: {rank: 32}", output="uri: s3://adapters/case, vllm: {}"),
        "spec.method.rank",
    ),
    Case(
        "twice the rank that vLLM is started with",
        job(
            "method: {type: LoRA, initialization: PiSSA, rank: 32}",
            output="uri: s3://adapters/case, vllm: {maxLoRARank: 32}",
        ),
        "spec.method.rank",
    ),
]
