"""Float32 matrix products of a CPU. torch asks MKL, which on AMD runs at less than half of what oneDNN gets.

bfloat16 goes to oneDNN anyway, GPUs and other CPUs have their own libraries: they are left alone.
"""

from functools import cache
from pathlib import Path

import torch
from torch.nn import functional


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Compute x @ weight.T + bias for x [..., in] and weight [out, in], or a transposed view of [in, out]."""
    if _slow_at_home(x, weight) and x.numel():
        flat = x.reshape(-1, x.shape[-1])
        out: torch.Tensor = _onednn(flat, weight, bias)
        return out.view(*x.shape[:-1], -1)
    return functional.linear(x, weight, bias)


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Compute a @ b for a [heads, m, k] and b [heads, k, n], or a transposed view."""
    if _slow_at_home(a, b):
        return torch.stack([linear(x, y.t()) for x, y in zip(a, b, strict=True)])
    return torch.bmm(a, b)


def _slow_at_home(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype is b.dtype is torch.float32 and a.device.type == b.device.type == "cpu" and onednn_pays()


@cache
def onednn_pays() -> bool:
    """Whether this is an AMD CPU, and torch's oneDNN product is there and right. The operator is not a public one."""
    if not (_is_amd() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    x, weight = torch.linspace(-1, 1, 15).view(3, 5), torch.linspace(1, 2, 20).view(4, 5)
    try:
        found = _onednn(x, weight, None)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, x @ weight.t(), rtol=1e-5, atol=1e-6)


def _onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], None)  # noqa: SLF001
    return out


def _is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "AuthenticAMD" in cpuinfo.read_text()
