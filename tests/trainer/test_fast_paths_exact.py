"""The fast paths compute what plain transformers and PEFT compute, and step aside where they would not."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

from finetune_api.v1alpha1 import Method
from finetune_trainer.data.collate import Collator, PackCollator
from finetune_trainer.data.packing import Pack
from finetune_trainer.data.tokens import IGNORED, TokenRow
from finetune_trainer.fast import attention, blocked, gemm, lora, loss
from finetune_trainer.fast.lora import FastLinear
from finetune_trainer.fast.switch import FastPaths, turn_on
from finetune_trainer.methods.adapter import add_adapter
from finetune_trainer.training.isolation import packing_error
from finetune_trainer.training.loss import nll_sum
from finetune_trainer.training.model import load_base

CPU = torch.device("cpu")
Batch = dict[str, torch.Tensor]
Step = Callable[[Any, Batch], torch.Tensor]


def token_rows(lengths: tuple[int, ...] = (40, 5, 17, 1, 150, 300, 2, 30)) -> list[TokenRow]:
    """Rows of less than a block of attention, of more than one, and of a single token; half of each is trained."""
    random = np.random.default_rng(3)
    rows = []
    for length in lengths:
        ids = random.integers(3, 250, length).astype(np.int32)
        labels = np.where(np.arange(length) < max(1, length // 2), IGNORED, ids).astype(np.int32)
        rows.append(TokenRow(ids, labels))
    return rows


def packed() -> Batch:
    """All rows in one sequence."""
    return PackCollator()([Pack(tuple(token_rows()))])


def padded() -> Batch:
    """Rows of unequal length below each other."""
    return Collator(0)(token_rows((40, 5, 150)))


def tuned(folder: Path, kind: str = "LoRA", dropout: str = "0", dtype: torch.dtype = torch.float32) -> Any:
    """A tiny model with an adapter that has left zero."""
    method = Method.model_validate({"type": kind, "rank": 4, "dropout": dropout})
    return leave_zero(add_adapter(load_base(folder, method, dtype, CPU), method, 1))


def leave_zero(model: Any) -> Any:
    """Give every B some numbers: at zero nothing would flow through A."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.train()


def theirs(model: Any, batch: Batch) -> torch.Tensor:
    """The sum of NLL as transformers computes it, all logits at once."""
    count = (batch["labels"][:, 1:] != IGNORED).sum()
    return torch.as_tensor(model(**batch, use_cache=False).loss * count)


def gradients(model: Any, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
    """Loss and gradients of one step, with the same random numbers each time."""
    model.zero_grad()
    torch.manual_seed(7)
    value = step(model, batch)
    value.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {**found, "loss": value.detach()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 2e-5) -> None:
    """Every tensor agrees to float32 rounding, relative to its norm."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert float((found[name] - tensor).norm()) <= tolerance * float(tensor.norm()), name


def on(model: Any) -> FastPaths:
    """All fast paths that apply."""
    return turn_on(model, torch.from_numpy(token_rows()[0].input_ids).long()[None])


@pytest.mark.parametrize("batch", [packed, padded])
@pytest.mark.parametrize(("kind", "dropout"), [("LoRA", "0"), ("QLoRA", "0"), ("LoRA", "0.3"), ("QLoRA", "0.3")])
def test_all_paths_together_give_the_libraries_gradients(
    kind: str, dropout: str, batch: Callable[[], Batch], model: Path
) -> None:
    """Packed and padded, in 4 bits and not; dropout draws the same random numbers. Off again, it is PEFT to the bit."""
    plain = tuned(model, kind, dropout)
    expected = gradients(plain, batch(), theirs)
    paths = on(plain)
    assert str(paths) == "attention by document, the loss in chunks, 14 LoRA layers"
    assert_same(gradients(plain, batch(), nll_sum), expected)
    paths.turn_off()
    assert not [module for module in plain.modules() if type(module).__module__.startswith("finetune_trainer")]
    again = gradients(plain, batch(), theirs)
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def test_in_bfloat16_they_add_no_rounding(model: Path) -> None:
    """Nobody is exact there: against the same weights in float32 they are as far off as the libraries and autocast."""

    def distance(found: dict[str, torch.Tensor]) -> float:
        """The share of all gradients together that is rounding."""
        assert all(torch.isfinite(tensor).all() and tensor.dtype is torch.float32 for tensor in found.values())
        off = sum(float((found[name] - tensor).square().sum()) for name, tensor in truth.items())
        return (off / sum(float(tensor.square().sum()) for tensor in truth.values())) ** 0.5

    half = tuned(model, dtype=torch.bfloat16)
    whole = tuned(model)
    with torch.no_grad():
        for ours, theirs_ in zip(whole.parameters(), half.parameters(), strict=True):
            ours.copy_(theirs_)
    truth = gradients(whole, packed(), theirs)
    truth.pop("loss")
    with torch.autocast("cpu", torch.bfloat16):
        autocast = distance(gradients(whole, packed(), theirs))
        libraries = distance(gradients(half, packed(), theirs))
        assert len(on(half).lora_layers) == 14
        fast = distance(gradients(half, packed(), nll_sum))
    assert 1e-4 < fast < 1.3 * libraries
    assert fast < 1.3 * autocast


def test_gradient_checkpointing_keeps_the_numbers(model: Path) -> None:
    """Recomputed layers draw the same dropout and see the same documents."""
    plain = tuned(model, dropout="0.3")
    expected = gradients(plain, packed(), theirs)
    on(plain)
    plain.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    assert_same(gradients(plain, packed(), nll_sum), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_documents_are_attended_as_if_alone(dropout: float) -> None:
    """Output and gradients against the softmax written out in float64, for rows that restart at different places.

    With dropout of the weights torch's own kernel runs per document; it is random, so only isolation is looked at.
    """
    torch.manual_seed(0)
    layer = torch.nn.Module()
    q, k, v = (torch.randn(2, heads, 300, 8, requires_grad=True) for heads in (6, 2, 2))
    positions = torch.stack([torch.arange(300), torch.cat([torch.arange(n) for n in (130, 1, 129, 40)])])

    def run() -> torch.Tensor:
        torch.manual_seed(1)
        return attention.attention(layer, q, k, v, None, dropout, 0.3, position_ids=positions)[0]

    if dropout:
        before = run()
        with torch.no_grad():
            v[1, :, 130:] += 100  # other documents than the first
        after = run()
        assert torch.equal(before[0], after[0])
        assert torch.equal(before[1, :130], after[1, :130])
        return
    out = run()
    weight = torch.randn_like(out)
    found = torch.autograd.grad((out * weight).sum(), (q, k, v))
    expected_out = by_definition(q, k, v, positions, 0.3)
    expected = torch.autograd.grad((expected_out * weight).sum(), (q, k, v))
    assert torch.allclose(out.double(), expected_out, atol=1e-5)
    for ours, truth in zip(found, expected, strict=True):
        assert torch.allclose(ours, truth, atol=2e-5)


def by_definition(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, positions: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention from its formula, in float64, with the square of who may see whom."""
    groups = q.shape[1] // k.shape[1]
    keys, values = (x.double().repeat_interleave(groups, dim=1) for x in (k, v))
    document = (positions == 0).cumsum(1)
    allowed = (document[:, :, None] == document[:, None, :]) & torch.ones(300, 300, dtype=torch.bool).tril()
    scores = (q.double() @ keys.transpose(2, 3) * scale).masked_fill(~allowed[:, None], float("-inf"))
    return (scores.softmax(-1) @ values).transpose(1, 2)


@pytest.mark.parametrize("chunk", [1, 7 * 320, 2**24])
def test_the_loss_in_chunks_is_the_loss(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and gradient of torch's cross-entropy, a row a chunk, some, all; a row without target gets none."""
    monkeypatch.setitem(loss.CHUNK_ELEMENTS, "cpu", chunk)
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 20, 16, requires_grad=True), torch.randn(320, 16)
    targets = torch.randint(0, 320, (2, 20))
    targets[0, 3:9] = IGNORED
    ours = loss.nll_sum(hidden, weight, targets, IGNORED)
    truth = functional.cross_entropy(
        (hidden.double() @ weight.double().t()).flatten(0, 1), targets.flatten(), reduction="sum"
    )
    assert float(ours.detach()) == pytest.approx(float(truth.detach()), rel=1e-6)
    (found,), (expected,) = (torch.autograd.grad(value * 0.25, hidden) for value in (ours, truth))
    assert torch.allclose(found, expected, atol=1e-5)
    assert not found[0, 3:9].any()


def tiny(config: Any, kind: Any) -> Any:
    """A two-layer model of another family, with LoRA on its attention."""
    torch.manual_seed(0)
    size = {
        "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return kind(config(**size))


def test_a_scaled_head_is_followed() -> None:
    """Granite divides its logits by 8; the hidden states that the model then returns are divided just so."""
    model = tiny(lambda **size: GraniteConfig(**size, logits_scaling=8.0), GraniteForCausalLM)
    model = leave_zero(get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")))
    expected = gradients(model, packed(), theirs)
    paths = on(model)
    assert str(paths) == "attention by document, the loss in chunks, 14 LoRA layers"
    assert_same(gradients(model, packed(), nll_sum), expected)


def test_capped_logits_and_windows_keep_their_own_code() -> None:
    """Gemma 2 caps its logits and scores, and every other layer sees a window only."""
    model = tiny(lambda **size: Gemma2Config(**size, sliding_window=16, attn_implementation="eager"), Gemma2ForCausalLM)
    model = leave_zero(
        get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"]))
    )
    expected = gradients(model, packed(), theirs)
    paths = on(model)
    assert str(paths) == "4 LoRA layers"
    assert_same(gradients(model, packed(), nll_sum), expected)


def test_windowed_layers_get_a_mask_and_whole_ones_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of both kinds (Qwen 3) trains as without the fast paths, and only its whole layers go by document."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    kinds = ["sliding_attention", "full_attention"]
    qwen = tiny(
        lambda **size: Qwen3Config(**size, use_sliding_window=True, sliding_window=16, layer_types=kinds),
        Qwen3ForCausalLM,
    )
    qwen = leave_zero(get_peft_model(qwen, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")))
    expected = gradients(qwen, packed(), theirs)
    on(qwen)
    calls = []
    real = blocked.CausalAttention.apply
    monkeypatch.setattr(blocked.CausalAttention, "apply", lambda *a: calls.append(1) or real(*a))
    assert_same(gradients(qwen, packed(), nll_sum), expected)
    assert len(calls) == 1


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"lora_bias": True}, {"modules_to_save": ["lm_head"]}, {"init_lora_weights": "pissa"}],
)
def test_variants_of_lora_are_pefts(options: dict[str, Any], model: Path) -> None:
    """DoRA and a bias on B are left to PEFT; a trained head gets its gradient; another start is no other layer."""
    warnings.filterwarnings("ignore", "`lora_bias=True` was passed")
    base = load_base(model, Method.model_validate({"type": "LoRA"}), torch.float32, CPU)
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], **options)
    variant = leave_zero(get_peft_model(base, config))
    expected = gradients(variant, packed(), theirs)
    paths = on(variant)
    assert len(paths.lora_layers) == (4 if {"modules_to_save", "init_lora_weights"} & options.keys() else 0)
    assert (paths.head is None) == ("modules_to_save" in options)
    assert_same(gradients(variant, packed(), nll_sum), expected)


def test_a_trained_head_gets_its_gradient(model: Path) -> None:
    """Where every parameter is trained, the head's own gradient is there and right; documents are still told apart."""
    whole = load_base(model, Method.model_validate({"type": "LoRA"}), torch.float32, CPU).train().requires_grad_(True)
    expected = gradients(whole, packed(), theirs)
    assert "lm_head.weight" in expected
    assert str(on(whole)) == "attention by document"
    assert_same(gradients(whole, packed(), nll_sum), expected)


def test_no_row_sees_its_neighbour(model: Path) -> None:
    """The isolation check passes with the fast attention, and sees it when documents are not told apart."""
    plain = tuned(model)
    on(plain)
    assert packing_error(plain, token_rows(), CPU) < 1e-5


def test_several_adapters_or_none_are_pefts(model: Path) -> None:
    """Two active adapters, and none, compute what PEFT does: the fast layers call it."""
    plain = tuned(model)
    plain.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    plain.base_model.set_adapter(["default", "second"])
    leave_zero(plain)
    batch = padded()
    expected = gradients(plain, batch, theirs)
    with plain.disable_adapter(), torch.no_grad():
        bare = float(theirs(plain, batch))
    on(plain)
    assert_same(gradients(plain, batch, nll_sum), expected)
    with plain.disable_adapter(), torch.no_grad():
        assert float(nll_sum(plain, batch)) == pytest.approx(bare, rel=1e-5)


def test_sharded_weights_are_left_to_their_engine(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ZeRO-3 takes apart after the start (it marks it so) is used through its own module only."""
    plain = tuned(model)
    expected = gradients(plain, packed(), theirs)
    on(plain)
    for parameter in plain.parameters():
        parameter.ds_id = 0
    monkeypatch.setattr(lora, "LoraFunction", None)
    monkeypatch.setattr(loss, "LinearCrossEntropy", None)
    assert_same(gradients(plain, packed(), nll_sum), expected)


def test_a_lora_layer_keeps_little(model: Path) -> None:
    """Its input, A's output, and a byte an element for dropout: less than half of what PEFT's layer keeps."""

    def kept(layer: Any, x: torch.Tensor) -> int:
        """Bytes that autograd holds for the backward, weights left out."""
        weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
        seen: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = layer(x)
        assert out.requires_grad
        return sum(seen.values())

    plain = tuned(model, dropout="0.3")
    layer = plain.get_base_model().model.layers[0].mlp.down_proj
    x = torch.randn(1, 400, layer.in_features, requires_grad=True)
    before = kept(layer, x)
    on(plain)
    assert isinstance(layer, FastLinear)
    assert kept(layer, x) == x.nbytes + x.numel() + 400 * 4 * 4
    assert kept(layer, x) < 0.7 * before


def test_products_through_onednn_are_products() -> None:
    """Plain, transposed, with a bias and by heads, against float64; where oneDNN is not used it is torch's own."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 17, 24), torch.randn(40, 24), torch.randn(40)
    assert torch.allclose(gemm.linear(x, weight, bias).double(), x.double() @ weight.double().t() + bias, atol=1e-4)
    assert torch.allclose(
        gemm.linear(x @ weight.t(), weight.t()).double(), (x @ weight.t()).double() @ weight.double(), atol=1e-3
    )
    a, b = torch.randn(3, 17, 24), torch.randn(3, 9, 24)
    assert torch.allclose(
        gemm.matmul(a, b.transpose(1, 2)).double(), a.double() @ b.double().transpose(1, 2), atol=1e-4
    )
    assert gemm.linear(x[:, :0], weight).shape == (3, 0, 40)
