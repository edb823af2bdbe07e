"""Rules about a task together with another part of the spec."""

from finetune_api.base import Rule
from finetune_api.v1alpha1.data import DataFormat, Overlong, TrainOn
from finetune_api.v1alpha1.method import PROMPT_TYPES
from finetune_api.v1alpha1.task import TaskType

_WITH_HEAD = [str(kind) for kind in TaskType if kind.has_head]


def _formats_of(task: TaskType) -> Rule:
    names = [str(format_) for format_ in task.formats]
    return Rule(
        cel=f"self.task.type != '{task}' || self.dataset.format in {['Auto', *names]}",
        holds=lambda s: s.task.type is not task or s.dataset.format in (DataFormat.AUTO, *task.formats),
        message=f"dataset.format of task.type {task} is {' or '.join(names)}; set one of them or Auto",
        field="dataset.format",
    )


TASK_RULES = (
    *(_formats_of(task) for task in TaskType),
    Rule(
        cel="self.task.type == 'CausalLM' || !self.training.packing",
        holds=lambda s: s.task.type is TaskType.CAUSAL_LM or not s.training.packing,
        message="training.packing goes with task.type CausalLM only; remove it",
        field="training.packing",
    ),
    Rule(
        cel="self.task.type == 'CausalLM' || self.dataset.trainOn == 'Assistant'",
        holds=lambda s: s.task.type is TaskType.CAUSAL_LM or s.dataset.train_on is TrainOn.ASSISTANT,
        message="dataset.trainOn goes with task.type CausalLM only, others have no turns; remove it",
        field="dataset.trainOn",
    ),
    Rule(
        cel="self.task.type == 'QuestionAnswering' || self.dataset.overlong != 'Split'",
        holds=lambda s: s.task.type is TaskType.QUESTION_ANSWERING or s.dataset.overlong is not Overlong.SPLIT,
        message="dataset.overlong: Split goes with task.type QuestionAnswering only; set Drop, Truncate or Fail",
        field="dataset.overlong",
    ),
    Rule(
        cel="!has(self.task.docStride) || self.dataset.overlong == 'Split' && "
        "self.task.docStride < self.training.maxLength",
        holds=lambda s: (
            s.task.doc_stride is None
            or (s.dataset.overlong is Overlong.SPLIT and s.task.doc_stride < s.training.max_length)
        ),
        message="task.docStride goes with dataset.overlong: Split only, and must be below training.maxLength; remove "
        "or lower it",
        field="task.docStride",
    ),
    Rule(
        cel="self.task.type == 'CausalLM' || size(self.dataset.roles) == 0",
        holds=lambda s: s.task.type is TaskType.CAUSAL_LM or not s.dataset.roles,
        message="dataset.roles goes with task.type CausalLM only, others have no turns; remove it",
        field="dataset.roles",
    ),
    Rule(
        cel=f"self.task.type == 'CausalLM' || !(self.method.type in {[str(kind) for kind in PROMPT_TYPES]})",
        holds=lambda s: s.task.type is TaskType.CAUSAL_LM or s.method.type not in PROMPT_TYPES,
        message="method.type PrefixTuning, PromptTuning and PTuning go with task.type CausalLM only; "
        "set another one, for instance LoRA",
        field="method.type",
    ),
    Rule(
        cel="self.task.type == 'CausalLM' || !has(self.model.adapter)",
        holds=lambda s: s.task.type is TaskType.CAUSAL_LM or s.model.adapter is None,
        message="model.adapter goes with task.type CausalLM only; remove it",
        field="model.adapter",
    ),
    Rule(
        cel=f"!(self.task.type in {_WITH_HEAD}) || !(self.method.initialization in ['OLoRA', 'PiSSA'])",
        holds=lambda s: not s.task.type.has_head or not s.method.initialization.changes_base,
        message="method.initialization OLoRA and PiSSA are published as the difference to their start, which is not "
        "known for the head that this task.type trains whole; set Default",
        field="method.initialization",
    ),
    Rule(
        cel="self.task.type == 'CausalLM' || double(self.training.labelSmoothing) == 0.0",
        holds=lambda s: s.task.type is TaskType.CAUSAL_LM or float(s.training.label_smoothing) == 0,
        message="training.labelSmoothing goes with task.type CausalLM only; remove it",
        field="training.labelSmoothing",
    ),
    Rule(
        cel="self.task.type == 'CausalLM' || !has(self.output.merge) && !has(self.output.vllm)",
        holds=lambda s: s.task.type is TaskType.CAUSAL_LM or (s.output.merge is None and s.output.vllm is None),
        message="output.merge and output.vllm go with task.type CausalLM only; remove them",
        field="output",
    ),
    Rule(
        cel="self.task.type == 'CausalLM' || !has(self.extensions.model)",
        holds=lambda s: s.task.type is TaskType.CAUSAL_LM or s.extensions.model is None,
        message="extensions.model goes with task.type CausalLM only; remove it",
        field="extensions.model",
    ),
)
