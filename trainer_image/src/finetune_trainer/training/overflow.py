"""Gradients that float16 cannot hold: the loss was scaled too far, and the step is left out with half the scale.

torch's GradScaler scales the loss against underflow. Its first scale is a guess, often too high, and it doubles after
2000 good steps: an overflow now and then is how it finds its way. An infinite gradient at any scale is none of that.
"""

from typing import Any

MOST = 20
"""Overflows one after the other until a run is given up: they bring the first scale, 65536, far below 1."""


class Overflows:
    """Counts the steps that were left out since the last one that was taken."""

    def __init__(self) -> None:
        self.in_a_row = 0

    def clear(self) -> None:
        """A step was good."""
        self.in_a_row = 0

    def count(self, scaler: Any, optimizer: Any) -> bool:
        """Tell whether the scaler leaves this step out, now that its gradients are unscaled; count it if so.

        It looks at each number of a gradient. A norm can be infinite where none of them is: the scaler lets that pass.
        """
        if scaler is None or not scaler.is_enabled():
            return False
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        found = scaler._found_inf_per_device(inner)  # noqa: SLF001 - what its own step() decides by
        if not any(bool(flag) for flag in found.values()):
            return False
        self.in_a_row += 1
        return True
