"""Of every task: pads, micro-batches, processes and a stop change nothing, and nothing but a head may be missing."""

import json
import multiprocessing
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed

from finetune_api.outcome import Reason
from finetune_api.v1alpha1 import TaskType
from finetune_trainer.data.dataset import Dataset
from finetune_trainer.errors import RunError
from finetune_trainer.methods.adapter import add_adapter
from finetune_trainer.preparation.rows import Rows
from finetune_trainer.tasks.choose import task_of
from finetune_trainer.tasks.measure import measure
from finetune_trainer.tasks.questions import Questions
from finetune_trainer.tasks.task import Task
from finetune_trainer.tokenizer import load_tokenizer
from finetune_trainer.training.model import load_base
from finetune_trainer.training.processes import Processes
from finetune_trainer.training.run import execute as execute_session
from finetune_trainer.training.stop import Stopped
from finetune_trainer.workdir import WorkDir
from tests.trainer.callbacks import add_to_trainers
from tests.trainer.taskcases import CASES, run_file
from tests.trainer.test_resume_exact import _SignalAt
from tests.trainer.tinyrun import execute, session, uploading

pytestmark = pytest.mark.long
CPU = torch.device("cpu")


@dataclass
class Ready:
    """A model with its adapter before training, and the rows of a run."""

    task: Task
    model: Any
    rows: list[Any]


@pytest.fixture(scope="module", params=CASES)
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """Each task in turn, with all held-out rows."""
    folder = tmp_path_factory.mktemp("ready")
    run = run_file(folder, CASES[request.param])
    work = WorkDir(folder / "work")
    work.root.mkdir()
    work.model.symlink_to(folder / "model")
    rows = Rows(run, work, lambda _: None, lambda _: None)
    rows.fetch()
    rows.write()
    _, held_out = (Dataset.open(place) for place in rows.folders)
    task = task_of(run.task.type, held_out.facts.labels, load_tokenizer(work.model), work.model)
    base = load_base(work.model, run.method, torch.float32, CPU, task, 1)
    asks = run.task.type is TaskType.QUESTION_ANSWERING
    return Ready(
        task, add_adapter(base, run.method, 1, task), list(Questions(held_out.rows) if asks else held_out.rows)
    )


def test_pads_change_nothing(ready: Ready) -> None:
    """Loss, metrics and every gradient are the same row by row as in one batch of rows of unlike lengths."""
    assert len({len(row) for row in ready.rows}) > 1
    scores = [measure(ready.task, ready.model, ready.rows, ready.task.collator, n, Processes()) for n in (1, 4, 9)]
    for other in scores[1:]:
        assert other.loss == pytest.approx(scores[0].loss, abs=1e-5)
        assert other.metrics == scores[0].metrics
        assert other.confusion == scores[0].confusion

    def gradients(batches: list[list[Any]]) -> dict[str, torch.Tensor]:
        ready.model.eval().zero_grad()  # without dropout
        for batch in batches:
            ready.task.loss_sum(ready.model, ready.task.collator(batch)).backward()
        return {n: p.grad.clone() for n, p in ready.model.named_parameters() if p.grad is not None}

    alone, together = gradients([[row] for row in ready.rows]), gradients([ready.rows])
    assert alone.keys() == together.keys()
    for name, gradient in alone.items():
        assert torch.allclose(gradient, together[name], atol=1e-4, rtol=1e-3), name


@pytest.mark.parametrize("name", CASES)
def test_micro_batches_change_nothing(name: str, tmp_path: Path) -> None:
    """One row eight times and eight rows at once: the same weights to rounding, though rows have unlike many items."""
    weights = []
    for size in (1, 8):
        (folder := tmp_path / str(size)).mkdir()
        more = {"microBatchSize": size, "maxSteps": 3, "learningRate": "0.1", "maxGradientNorm": "0"}
        more["optimizer"] = {"type": "SGD"}  # AdamW makes steps of the rounding of gradients that are zero
        method = {"type": "LoRA", "dropout": "0"}
        execute(run_file(folder, _undropped(name, folder), {"method": method}, **more), folder / "work")
        weights.append(load_file(folder / "out/adapter_model.safetensors"))
    moved = max(float(tensor.abs().max()) for key, tensor in weights[0].items() if "lora_B" in key)  # from zero
    for key, tensor in weights[0].items():
        assert float((tensor - weights[1][key]).abs().max()) < 1e-3 * moved, key


def _undropped(name: str, folder: Path) -> Any:
    """The case; its model is made here, and its own dropout turned off: its draws differ with the batch."""
    case = CASES[name]
    run_file(folder, case)
    config = json.loads((folder / "model/config.json").read_bytes())
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "dropout_rate"):
        if key in config:
            config[key] = 0.0
    config |= {"seq_classif_dropout": 0.0, "qa_dropout": 0.0, "classifier_dropout": 0.0}
    (folder / "model/config.json").write_text(json.dumps(config))
    return case


@pytest.mark.parametrize("name", ["texts", "targets"])
def test_stopped_and_resumed_equals_uninterrupted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM within step 4 of 7: the published adapter has the bits of a run without, with dropout on."""
    for part in ("straight", "stopped"):
        (tmp_path / part).mkdir()
    straight = run_file(tmp_path / "straight", CASES[name], maxSteps=7)
    execute(straight, tmp_path / "straight/work")
    run = run_file(tmp_path / "stopped", CASES[name], maxSteps=7)
    first = session(run, tmp_path / "stopped/first")
    add_to_trainers(monkeypatch, _SignalAt(4))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        first.stop.install()
        with uploading(run, tmp_path / "stopped/first"), pytest.raises(Stopped):
            execute_session(first)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    monkeypatch.undo()
    assert first.reporter.saved_step == 4
    execute(run, tmp_path / "stopped/second")
    one, other = (tmp_path / part / "out/adapter_model.safetensors" for part in ("straight", "stopped"))
    assert one.read_bytes() == other.read_bytes()


def _measured_by(rank: int, world: int, folder: Path, ready: Ready, answers: Any) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    rows = ready.rows[:2]  # of three processes, one has none
    answers.put(measure(ready.task, ready.model, rows, ready.task.collator, 1, Processes(rank, world)))
    distributed.destroy_process_group()


def test_processes_share_the_rows_and_agree(ready: Ready, tmp_path: Path) -> None:
    """Three processes, one of them without a row, all tell the scores of one."""
    alone = measure(ready.task, ready.model, ready.rows[:2], ready.task.collator, 1, Processes())
    context: Any = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_measured_by, args=(n, 3, tmp_path, ready, answers)) for n in range(3)]
    for process in processes:
        process.start()
    scores = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    for each in scores:
        assert each.loss == pytest.approx(alone.loss, abs=1e-6)
        assert (each.metrics, each.confusion) == (alone.metrics, alone.confusion)


@pytest.mark.parametrize("name", ["texts", "texts by a decoder", "words", "answers"])
def test_the_head_alone_may_be_missing(name: str, tmp_path: Path) -> None:
    """A new head is random by the seed; a model whose files lack anything else is refused with its name."""
    run = run_file(tmp_path, CASES[name])
    folder = tmp_path / "model"
    task = task_of(run.task.type, ["negative", "neutral", "positive"], load_tokenizer(folder), folder)

    def heads(seed: int) -> dict[str, torch.Tensor]:
        model = load_base(folder, run.method, torch.float32, CPU, task, seed)
        return {n: p for n, p in model.named_parameters() if n.split(".")[0] in CASES[name].head and "weight" in n}

    one, same, other = heads(1), heads(1), heads(2)
    assert one
    assert all(torch.equal(tensor, same[key]) and not torch.equal(tensor, other[key]) for key, tensor in one.items())
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    lost = sorted(key for key in weights if "layer" in key and weights[key].ndim > 1)[0]
    save_file({key: tensor for key, tensor in weights.items() if key != lost}, file, {"format": "pt"})
    with pytest.raises(RunError, match="lack 1 weights, for instance .*" + lost.split(".", 1)[1]) as caught:
        heads(1)
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
