"""What the kernel says about this container's memory: its limit, and whether it killed a process for it.

https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.events)
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html (memory.oom_control)
"""

from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60  # version 1 says "no limit" with a number near 2^63


@dataclass(frozen=True)
class Memory:
    """The memory files of one control group; a machine without them has no folder."""

    folder: Path | None

    @staticmethod
    def of_this_process(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> "Memory":
        """Find the control group. In a container its path may be the host's, while its files are at the top."""
        try:
            lines = own.read_text().splitlines()
        except OSError:
            return Memory(None)
        candidates = []
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controllers == "memory" or not controllers:
                base = root / "memory" if controllers else root
                candidates += [base / path.lstrip("/"), base]
        files = ("memory.events", "memory.oom_control")
        return Memory(next((c for c in candidates if any((c / file).is_file() for file in files)), None))

    def kills(self) -> int:
        """How many processes of the group the kernel has killed for memory so far."""
        if self.folder is None:
            return 0
        for name in ("memory.events", "memory.oom_control"):
            try:
                words = dict(line.split() for line in (self.folder / name).read_text().splitlines())
            except (OSError, ValueError):
                continue
            return int(words.get("oom_kill", 0))
        return 0

    def limit(self) -> int | None:
        """The limit in bytes, or None for no limit."""
        if self.folder is None:
            return None
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                text = (self.folder / name).read_text().strip()
            except OSError:
                continue
            return int(text) if text.isdigit() and int(text) < _UNLIMITED else None
        return None
