"""Every method trains, moves nothing but its own, and is published so that plain peft computes what was trained."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from finetune_api.outcome import Outcome, Reason
from finetune_trainer.errors import RunError
from finetune_trainer.training import fit as fitting
from finetune_trainer.training import run as running
from finetune_trainer.training.model import load_base
from finetune_trainer.verify import check_reload, check_weights
from tests.trainer.methodcases import CASES, EXAMPLES, MethodCase, plain_base
from tests.trainer.tinyrun import execute, run_file

pytestmark = [
    pytest.mark.long,
    # AdaLoRA's pattern of ranks is not LoRA's rank_pattern; and it may prune all ranks of a layer.
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning"),
]
WEIGHTS = "adapter_model.safetensors"
EXAMPLE_NAMES = {path.stem for path in EXAMPLES.glob("*.yaml")}
Tensors = dict[str, torch.Tensor]


@dataclass
class Finished:
    """A finished run of one method, and what was seen of it on the way."""

    case: MethodCase
    folder: Path
    outcome: Outcome
    model: Any
    """The trained model, as the run let it go."""
    trained: list[str]
    """Names of the parameters that could move."""
    frozen: Tensors
    """Copies of all others, of quantization constants and buffers, from before the first step."""
    start: Tensors
    """The adapter before the first step, by its parameters' names."""
    fitted: Any

    @property
    def virtual_tokens(self) -> int:
        """How many positions peft answers before the row's own."""
        in_row = self.case.method.get("type") in ("PromptTuning", "PTuning")
        return self.case.method.get("virtualTokens", 20) if in_row else 0

    def reloaded(self, base: Path) -> Any:
        """The published adapter on a fresh base: transformers and peft alone."""
        return PeftModel.from_pretrained(plain_base(base, self.case.method), self.folder / "out").eval()


def _same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Packed weights are no numbers: as floats some would not even equal themselves."""
    return torch.equal(*(tensor.reshape(-1).contiguous().view(torch.uint8) for tensor in (one, other)))


def _frozen(model: Any) -> Tensors:
    """Everything with bytes that no optimizer may touch."""
    tensors = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    tensors |= dict(model.named_buffers())
    for name, module in model.named_modules():
        if hasattr(getattr(module, "weight", None), "quant_state"):
            tensors[f"{name} scales"] = module.weight.quant_state.absmax
        if hasattr(getattr(module, "state", None), "SCB"):
            tensors[f"{name} scales"] = module.state.SCB
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in EXAMPLE_NAMES else pytest.mark.soak) for name in CASES],
)
def finished(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of each method in turn."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp("method")
    seen: dict[str, Any] = {}
    real_add, real_fit = fitting.add_adapter, running.fit

    def add_adapter(*arguments: Any) -> Any:
        tuned = seen["model"] = real_add(*arguments)
        seen["trained"] = [name for name, p in tuned.named_parameters() if p.requires_grad]
        seen["start"] = {n: p.detach().clone() for n, p in tuned.named_parameters() if p.requires_grad}
        seen["frozen"] = _frozen(tuned)
        return tuned

    def fit(*arguments: Any) -> Any:
        seen["fitted"] = real_fit(*arguments)
        return seen["fitted"]

    run = run_file(folder, model, method={"rank": 16, "dropout": "0.05", **case.method}, **case.training)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "add_adapter", add_adapter)
        patch.setattr(running, "fit", fit)
        outcome = execute(run, folder / "work")
    return Finished(case, folder, outcome, **seen)


def test_every_example_is_run() -> None:
    """Each file in examples/methods is a case here."""
    assert len(EXAMPLE_NAMES) > 8
    assert CASES.keys() | {"full"} >= EXAMPLE_NAMES  # full: test_methods_full.py


def test_it_learns(finished: Finished) -> None:
    """The loss of rows that were not trained on falls."""
    before, after = finished.outcome.loss_before, finished.outcome.loss_after
    assert before is not None
    assert after is not None
    assert after < before - finished.case.gain


def test_only_its_own_parameters_move(finished: Finished) -> None:
    """Frozen tensors keep their bytes, quantized ones and their constants too; every tensor of the method moves."""
    parameters = dict(finished.model.named_parameters())
    after = _frozen(finished.model)
    # What evaluation puts aside (scales of 8-bit layers) may be there in one of the two only.
    assert after.keys() >= finished.frozen.keys()
    different = [n for n, tensor in finished.frozen.items() if not _same_bytes(tensor, after[n])]
    assert not different
    assert all(finished.case.trained in name for name in finished.trained)
    # AdaLoRA may have pruned all ranks of a layer: then its E is zero again.
    moving = [n for n in finished.trained if "lora_E" not in n or parameters[n].any()]
    assert len(moving) >= len(finished.trained) / 2
    assert [n for n in moving if torch.equal(parameters[n], finished.start[n])] == []
    assert all(parameters[name].dtype is torch.float32 for name in finished.trained)


def test_plain_peft_computes_what_was_trained(finished: Finished, model: Path) -> None:
    """The published folder, loaded by peft onto transformers' own base, gives the trained model's logits."""
    ids = torch.arange(3, 43).reshape(2, 20)
    plain = finished.reloaded(model)
    finished.model.eval()
    with torch.inference_mode():
        reloaded = plain(ids, attention_mask=torch.ones_like(ids)).logits[:, finished.virtual_tokens :]
        trained = finished.model(ids, attention_mask=torch.ones_like(ids)).logits
    assert reloaded.shape == (2, 20, 320)
    assert torch.allclose(reloaded, trained, atol=2e-4), float((reloaded - trained).abs().max())
    assert len(load_file(finished.folder / "out" / WEIGHTS)) == finished.case.tensors


def test_the_reported_losses_are_those_of_plain_peft(finished: Finished, model: Path) -> None:
    """Row by row without padding, one token at a time: the loss after, and with the adapter off the loss before."""
    plain = finished.reloaded(model)
    assert finished.outcome.loss_before is not None
    assert _loss_by_hand(plain, finished) == pytest.approx(finished.outcome.loss_after, abs=1e-4)
    with plain.disable_adapter():
        off = _loss_by_hand(plain, finished, virtual_tokens=0)
    assert off == pytest.approx(finished.outcome.loss_before, abs=1e-4)


def test_disabled_it_is_the_base(finished: Finished, model: Path) -> None:
    """With the published adapter turned off, the logits are the base's own, bit for bit."""
    ids = torch.arange(3, 23).reshape(1, 20)
    plain, base = finished.reloaded(model), plain_base(model, finished.case.method)
    with torch.inference_mode(), plain.disable_adapter():
        assert torch.equal(plain(ids).logits, base(ids).logits)


def test_card_and_manifest_say_the_method(finished: Finished) -> None:
    """The manifest holds every field of the method as asked for; the card says its numbers, and a hub finds it."""
    recorded = json.loads((finished.folder / "out/manifest.json").read_bytes())["method"]
    asked = dict(finished.case.method)
    quantization = asked.pop("quantization", {})
    assert {field: recorded[field] for field in asked} == asked
    assert {field: recorded["quantization"][field] for field in quantization} == quantization
    card = (finished.folder / "out/README.md").read_text()
    kind = finished.case.method.get("type", "QLoRA").removeprefix("Q").removesuffix("Tuning").lower()
    assert f"- {kind}" in card.split("---")[1]
    for number in ("rank", "alpha", "virtualTokens"):
        if number in finished.case.method:
            assert str(finished.case.method[number]) in card.split("- Method")[0]
    assert quantization.get("type", "") in card.replace("LLM.int8", "INT8")


def test_the_card_has_the_lines_that_load_it(finished: Finished, model: Path) -> None:
    """Its Python, run with the two folders filled in, gives a model that computes what plain peft does."""
    code = _block(finished, "python").replace("FOLDER", str(finished.folder / "out")).replace("BASE", str(model))
    loaded: dict[str, Any] = {}
    exec(code, loaded)  # noqa: S102 - what a reader of the card would type
    tuned, ids = loaded["model"], torch.arange(3, 23).reshape(1, 20)
    with torch.inference_mode():
        told = tuned(ids).logits
        with tuned.disable_adapter():
            assert not torch.allclose(told[:, -20:], tuned(ids).logits, atol=1e-3)
        if finished.case.method.get("type", "QLoRA") != "QLoRA" and "quantization" not in finished.case.method:
            assert torch.allclose(told, finished.reloaded(model)(ids).logits, atol=1e-6)
    assert loaded["tokenizer"].chat_template


def test_the_card_serves_what_vllm_can_load(finished: Finished) -> None:
    """A plain LoRA has a command with a rank that vLLM takes and that is enough; nothing else has one."""
    config = json.loads((finished.folder / "out/adapter_config.json").read_bytes())
    if config["peft_type"] != "LORA" or config["use_dora"] or config["modules_to_save"]:
        assert "vllm" not in (finished.folder / "out/README.md").read_text()
        return
    words = shlex.split(_block(finished, "sh"))
    assert (words[:3], words[-1]) == (["vllm", "serve", "BASE"], "tiny=FOLDER")
    rank = int(words[words.index("--max-lora-rank") + 1])
    assert config["r"] <= rank
    assert rank in (8, 16, 32, 64, 128, 256, 320, 512)


def _block(finished: Finished, language: str) -> str:
    """The lines of that language in the model card."""
    card = (finished.folder / "out/README.md").read_text()
    return card.split(f"```{language}\n")[1].split("```")[0]


def _loss_by_hand(plain: Any, finished: Finished, virtual_tokens: int | None = None) -> float:
    skipped = finished.virtual_tokens if virtual_tokens is None else virtual_tokens
    tokenizer = AutoTokenizer.from_pretrained(finished.folder / "out")
    total, count = 0.0, 0
    for line in (finished.folder / "eval.jsonl").read_text().splitlines():
        messages = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False)
        answer_ids = tokenizer.encode(messages[1]["content"] + "<|im_end|>", add_special_tokens=False)
        with torch.inference_mode():
            logits = plain(torch.tensor([prompt_ids + answer_ids])).logits[0, skipped:].double().log_softmax(-1)
        total -= sum(float(logits[len(prompt_ids) - 1 + i, token]) for i, token in enumerate(answer_ids))
        count += len(answer_ids)
    return total / count


def _zeroed(tensors: Tensors) -> Tensors:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def _halved(tensors: Tensors) -> Tensors:
    return dict(sorted(tensors.items())[: len(tensors) // 2])


def _of_another_run(tensors: Tensors) -> Tensors:
    """Other numbers of the same size, as another seed would give."""
    random = torch.Generator().manual_seed(5)
    return {
        n: torch.randn(t.shape, generator=random) * t.square().mean().sqrt() if t.numel() else t
        for n, t in tensors.items()
    }


SPOILT: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "zeroed": (_zeroed, "are all zero"),
    "half of it": (_halved, "lacks"),
    "another run's": (_of_another_run, "does not compute what was trained"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_verification_refuses_a_spoilt_file(name: str, finished: Finished, model: Path, tmp_path: Path) -> None:
    """The two checks of a run pass its own file, and refuse one that is zero, incomplete, or of another run."""
    folder = Path(shutil.copytree(finished.folder / "out", tmp_path / "adapter"))
    spoil, words = SPOILT[name]
    save_file({n: t.contiguous() for n, t in spoil(load_file(folder / WEIGHTS)).items()}, folder / WEIGHTS)
    with pytest.raises(RunError, match=words) as caught:
        _verify(finished, folder, model, tmp_path)
    assert caught.value.reason is Reason.VERIFICATION_FAILED


def _verify(finished: Finished, folder: Path, model: Path, scratch: Path) -> None:
    """Both checks, as a run does them."""
    check_weights(folder, finished.fitted.start)
    method = run_file(scratch, model, method={"rank": 16, "dropout": "0.05", **finished.case.method}).method
    base = load_base(model, method, torch.float32, torch.device("cpu"))
    check_reload(base, folder, finished.fitted.probe, torch.device("cpu"))
