"""The parts of a run's peak memory, and the largest micro-batch that fits.

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
from finetune_api.v1alpha1 import Method, OptimizerType, QuantizationType
from finetune_trainer.estimate.saved import saved_bytes
from finetune_trainer.estimate.skeleton import skeleton
from finetune_trainer.fast.loss import CHUNK_ELEMENTS
from finetune_trainer.fast.switch import base_of

OVERHEAD = {"cpu": 800 * 2**20, "cuda": 600 * 2**20}
"""Measured: a worker that has imported everything and done nothing (bench/memory_estimate.py); CUDA 13's context."""
_STATES = {OptimizerType.SGD: 0, OptimizerType.ADAFACTOR: 0, OptimizerType.LION: 4}
_BLOCK, _OUTER_BLOCK = 64, 256  # bitsandbytes' block sizes of 4-bit weights and of their quantized scales


@dataclass(frozen=True)
class Shape:
    """What a micro-batch looks like at its largest."""

    rows: int
    length: int
    """Tokens of a row; of a pack where rows are packed."""
    trained: int
    """Of them, trained ones."""


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


def estimate(run: RunFile, model: Path, shape: Shape, dtype: torch.dtype, device: str) -> Estimate:
    """Estimate the peak of training.

    Args:
        run: Its method and its training.
        model: A folder with config.json.
        shape: The largest micro-batch.
        dtype: What training computes in.
        device: cpu or cuda.
    """
    bones = skeleton(model, run.method, dtype)
    base = base_of(bones)
    trained = sum(parameter.numel() for parameter in bones.parameters() if parameter.requires_grad)
    checkpointing = run.training.gradient_checkpointing
    config = base.config.get_text_config()
    layers, width, words = config.num_hidden_layers, config.hidden_size, config.vocab_size
    weights = _weights(bones, base, run.method, dtype)
    fast = run.training.fast_paths
    kept = saved_bytes(
        bones, shape.rows, shape.length, shape.trained, dtype=dtype, fast=fast, packed=run.training.packing
    )
    if checkpointing:  # the input of each layer, and all of one layer at a time
        kept = kept // layers + layers * shape.rows * shape.length * width * dtype.itemsize
    return Estimate(
        weights=weights,
        adapter=4 * trained,
        gradients=4 * trained,
        optimizer=_STATES.get(run.training.optimizer.type, 2 if "8bit" in run.training.optimizer.type else 8) * trained,
        activations=kept,
        head=_head(shape, width, words, dtype, fast=fast),
        overhead=OVERHEAD[device],
    )


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


def _head(shape: Shape, width: int, words: int, dtype: torch.dtype, *, fast: bool) -> int:
    """Logits in float32, with their softmax and gradient; in chunks where the loss is."""
    positions = shape.rows * shape.trained
    if not fast:
        return 3 * 4 * positions * words
    return 2 * 4 * min(positions * words, CHUNK_ELEMENTS) + positions * width * dtype.itemsize
