"""Frozen layers against ordinary ones."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from continuonbrain.model import frozen_linear  # noqa: E402
from continuonbrain.model.frozen_linear import FrozenLinear, quantised_rows  # noqa: E402
from continuonbrain.model.packed_weight import PackedWeight, can_pack  # noqa: E402

packs = pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this machine packs no bf16 weights")


@pytest.mark.parametrize("rows", [1, 5, 128, 200])
def test_a_frozen_layer_is_an_ordinary_one_for_few_rows_and_many(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(70, 30, generator=generator, dtype=torch.float64)
    layer = FrozenLinear(weight)
    ours = torch.randn(rows, 30, generator=generator, dtype=torch.float64).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    out, expected = layer(ours), theirs @ weight.T
    pull = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    (out * pull).sum().backward()
    (expected * pull).sum().backward()
    assert torch.allclose(out, expected)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad)


@packs
@pytest.mark.parametrize("rows", [1, 4, 32, 200])
def test_a_packed_layer_is_the_same_layer(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(70, 30, generator=generator).bfloat16()
    layer = FrozenLinear(weight, packed=PackedWeight(weight))
    x = torch.randn(2, rows, 30, generator=generator).bfloat16().requires_grad_()
    pull = torch.randn(2, rows, 70, generator=generator).bfloat16()
    out = layer(x)
    out.backward(pull)
    assert x.grad is not None
    exact, back = x.detach().double() @ weight.double().T, pull.double() @ weight.double()
    assert float((out.detach() - exact).norm() / exact.norm()) < 4e-3  # one rounding to bf16
    assert float((x.grad - back).norm() / back.norm()) < 4e-3


def test_only_what_a_machine_can_pack_is_packed() -> None:
    with pytest.raises(ValueError, match="float32"):
        PackedWeight(torch.zeros(3, 2))


def test_a_frozen_int8_layer_gives_the_gradient_of_its_dequantised_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(700, 96, generator=generator), torch.randn(2, 5, 96, generator=generator)
    quantised, scale = quantised_rows(weight)
    assert float((quantised * scale[:, None] - weight).abs().max()) <= float(scale.max()) / 2 * 1.001
    layer = FrozenLinear(quantised, scale)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = layer(ours)
    expected = theirs @ (quantised * scale[:, None]).T
    pull = torch.randn(out.shape, generator=generator)
    (out * pull).sum().backward()
    (expected * pull).sum().backward()
    assert torch.allclose(out, expected, atol=1e-4)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-3)


def test_an_int8_layer_that_has_decided_can_be_trained_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen_linear, "_SCRATCH", frozen_linear._Scratch())
    monkeypatch.setattr(frozen_linear, "_TILE_NUMBERS", 20)  # two rows at a time
    numbers, scale = quantised_rows(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)))
    layer = FrozenLinear(numbers, scale)
    with torch.inference_mode():
        decided = layer(torch.ones(3, 8))
    x = torch.ones(3, 8, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert torch.equal(out.detach(), decided)
    assert x.grad is not None
    assert torch.allclose(x.grad, (numbers * scale[:, None]).sum(0).expand(3, 8))
