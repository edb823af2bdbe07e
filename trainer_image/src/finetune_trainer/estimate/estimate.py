"""The parts of a run's peak memory.

weights       the base as it is stored: quantized linear layers, the rest in the compute dtype
adapter       float32, its gradients, and the optimizer's state
activations   what a micro-batch keeps for its backward pass, with the output head
overhead      the interpreter and its libraries on a CPU, CUDA's context on a GPU
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune_api.run import RunFile
from finetune_api.v1alpha1 import Method, OptimizerType, QuantizationType, Strategy
from finetune_trainer.estimate.saved import saved_bytes
from finetune_trainer.estimate.skeleton import skeleton
from finetune_trainer.fast.loss import CHUNK_ELEMENTS, MANY_ELEMENTS
from finetune_trainer.fast.switch import base_of
from finetune_trainer.methods.groups import members

OVERHEAD = {"cpu": 930 * 2**20, "cuda": 600 * 2**20}
"""A worker that has imported everything (measured, bench/memory_estimate.py); CUDA's context (not measured here)."""
_STATES = {OptimizerType.SGD: 0, OptimizerType.ADAFACTOR: 0, OptimizerType.LION: 4}
_BLOCK, _OUTER_BLOCK = 64, 256  # bitsandbytes' block sizes of 4-bit weights and of their quantized scales


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    overhead: int

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return sum(int(getattr(self, field.name)) for field in fields(self))

    def __str__(self) -> str:
        """The parts in MiB, largest first."""
        parts = sorted(((getattr(self, field.name), field.name) for field in fields(self)), reverse=True)
        return f"{self.total >> 20} MiB: " + ", ".join(f"{name} {size >> 20}" for size, name in parts)


@dataclass(frozen=True)
class Anatomy:
    """What a run's memory is made of, for sequences of one length; micro-batches of any size follow from it."""

    weights: int
    parameters: int
    """Trained ones."""
    state_bytes: int
    """Of the optimizer, for each of them."""
    kept: int
    """Bytes that one sequence keeps for the backward pass, up to the head's input."""
    layers: int
    layer_input: int
    """Bytes of one sequence between two layers."""
    logits: int
    """Of one sequence."""
    hidden: int
    """Bytes of the hidden states from which those are made."""
    fast: bool
    chunk: int
    """Logits that exist at a time on the fast path."""
    overhead: int

    def peak(self, rows: int, *, checkpointing: bool) -> Estimate:
        """The estimate for micro-batches of `rows` sequences."""
        kept = self.kept
        if checkpointing:  # the input of each layer, and one layer with its gradients
            kept = 2 * kept // self.layers + self.layers * self.layer_input
        head = 3 * 4 * rows * self.logits  # float32, with softmax and gradient
        if self.fast:
            head = 2 * 4 * min(rows * self.logits, self.chunk) + rows * self.hidden
        return Estimate(
            weights=self.weights,
            adapter=4 * self.parameters,
            gradients=4 * self.parameters,
            optimizer=self.state_bytes * self.parameters,
            activations=rows * kept,
            head=head,
            overhead=self.overhead,
        )


def anatomy(run: RunFile, model: Path, length: int, trained: int, dtype: torch.dtype, device: str) -> Anatomy:
    """Take a run apart.

    Args:
        run: Its method and its training.
        model: A folder with config.json.
        length: Tokens of the longest sequence; of a pack where rows are packed.
        trained: Of them, trained ones.
        dtype: What training computes in.
        device: cpu or cuda.

    Raises:
        RunError: InvalidConfiguration for modules that the model has not, or does not train.
    """
    bones = skeleton(model, run.method, dtype)
    members(bones, run.training.parameter_groups)
    base = base_of(bones)
    config, optimizer = base.config.get_text_config(), run.training.optimizer.type
    between = config.hidden_size * dtype.itemsize
    fast = run.training.fast_paths and (run.training_gpus < 2 or not run.training.parallelism.strategy.shares_weights)
    return Anatomy(
        weights=_held(run, _weights(bones, base, run.method, dtype), config.num_hidden_layers),
        parameters=sum(parameter.numel() for parameter in bones.parameters() if parameter.requires_grad),
        state_bytes=_STATES.get(optimizer, 2 if "8bit" in optimizer else 8),
        kept=saved_bytes(bones, length, trained, dtype=dtype, fast=fast),
        layers=config.num_hidden_layers,
        layer_input=length * between,
        logits=trained * config.vocab_size,
        hidden=trained * between,
        fast=fast,
        chunk=CHUNK_ELEMENTS.get(device, MANY_ELEMENTS),
        overhead=OVERHEAD[device] + (_mapped(base, run.method) if device == "cpu" else 0),
    )


def _held(run: RunFile, weights: int, layers: int) -> int:
    """Of the base's bytes, those that one GPU holds at most.

    FSDP: its share, the layer at work and the next one. ZeRO-3 shares out what every process has read whole.
    """
    if run.training_gpus < 2 or run.training.parallelism.strategy is not Strategy.FSDP:
        return weights
    return min(weights, weights // run.training_gpus + 2 * weights // layers)


def _mapped(base: Any, method: Method) -> int:
    """Bytes of the weights' files, which stay mapped; and once more where they are quantized from."""
    dtype = getattr(base.config, "dtype", None) or torch.float32
    files = sum(parameter.numel() for parameter in base.parameters() if not parameter.requires_grad) * dtype.itemsize
    return int(files) * (2 if method.base_quantization else 1)


def _weights(bones: Any, base: Any, method: Method, dtype: torch.dtype) -> int:
    """The frozen tensors: linear layers but the head quantized where the method says so, tied ones counted once."""
    head = base.get_output_embeddings()
    linear = {id(m.weight) for m in base.modules() if isinstance(m, nn.Linear) and m is not head}
    frozen = {id(p): p for p in bones.parameters() if not p.requires_grad}
    bits = _bits(method) if method.base_quantization else 8 * dtype.itemsize
    return sum(int(p.numel() * bits / 8) if key in linear else p.numel() * dtype.itemsize for key, p in frozen.items())


def _bits(method: Method) -> float:
    """Bits of a quantized parameter, with its share of the scales."""
    quantization = method.base_quantization
    if quantization is None or quantization.type is QuantizationType.INT8:
        return 8.0
    return 4 + (8 / _BLOCK + 32 / (_BLOCK * _OUTER_BLOCK) if quantization.double_quantization else 32 / _BLOCK)
