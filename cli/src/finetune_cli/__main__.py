"""`python -m finetune_cli` is `finetune`."""

from finetune_cli.main import app

app(prog_name="finetune")
