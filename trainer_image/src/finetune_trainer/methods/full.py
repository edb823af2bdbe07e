"""Full fine-tuning: every weight moves, and the whole model is published.

For small models: with its gradient and AdamW's state, a weight takes 16 bytes.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import load_file

FILES = "model*.safetensors"


def unfreeze(model: Any) -> Any:
    """Let every weight move."""
    return model.requires_grad_(True)


def load_weights(model: Any, folder: Path) -> None:
    """Put the weights of a saved model into `model`. Tied weights are saved once, and are one tensor here, too."""
    for path in sorted(folder.glob(FILES)):
        model.load_state_dict(load_file(path), strict=False)
