"""What a number was measured on, and how much of the machine others had meanwhile."""

import ctypes
import gc
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "tokenizers", "bitsandbytes")


def describe(packages: tuple[str, ...] = PACKAGES) -> dict[str, object]:
    """Machine, versions and date."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{os.cpu_count()} cores, {model}" + (", AVX512-BF16" if "avx512_bf16" in cpuinfo else ""),
        "memory": f"{memory} GiB",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


@dataclass(frozen=True)
class Load:
    """CPU seconds of the whole machine and of a process so far."""

    machine: float
    own: float
    wall: float

    @classmethod
    def now(cls, pid: int) -> "Load":
        """Read /proc; children that have ended count as the process' own."""
        user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return cls((user + nice + system + irq + softirq) / TICKS, sum(map(int, fields[11:15])) / TICKS, uptime)

    def others_since(self, before: "Load") -> float:
        """Cores that everybody else had on average since `before`."""
        wall = max(self.wall - before.wall, 0.01)
        return max(0.0, (self.machine - before.machine - (self.own - before.own)) / wall)


def memory(pid: int, name: str) -> int:
    """Bytes of a line of /proc/PID/status: VmRSS is what it has, VmHWM the most it had since `reset_peak`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {name} in /proc/{pid}/status")


def give_back() -> None:
    """Return what this process has freed to the system: kept, it would hide what training needs on top."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def reset_peak(pid: int) -> None:
    """Let VmHWM start anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
