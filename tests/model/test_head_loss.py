"""The one-pass head against torch's own cross-entropy."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from continuonbrain.model import head_loss as head_loss_module  # noqa: E402
from continuonbrain.model.frozen_linear import QuantisedRows, quantised_rows  # noqa: E402
from continuonbrain.model.head_loss import IGNORED, PlainRows, head_loss  # noqa: E402
from continuonbrain.model.packed_weight import can_pack  # noqa: E402

packs = pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this machine packs no bf16 weights")


@pytest.mark.parametrize("cap", [None, 0.5, 30.0, 90.0, 2000.0])
@pytest.mark.parametrize("chunk", [None, 7, 100])
def test_the_one_pass_head_is_cross_entropy_over_the_whole_vocabulary(
    cap: float | None, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_loss_module, "_CACHED_ROWS", 50)  # several, the last one smaller
    generator = torch.Generator().manual_seed(0)
    weight = 6 * torch.randn(130, 12, generator=generator, dtype=torch.float64)
    ours = torch.randn(2, 3, 12, generator=generator, dtype=torch.float64).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    labels = torch.tensor([[4, 129, IGNORED], [0, 77, 3]])
    loss = head_loss(ours, labels, PlainRows(weight), soft_cap=cap, chunk=chunk)
    logits = theirs @ weight.T
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    (3 * loss).backward()
    (3 * expected).backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


@packs
@pytest.mark.parametrize("cap", [None, 30.0, 90.0])
@pytest.mark.parametrize("chunk", [None, 7])
def test_a_packed_head_gives_the_same_loss_and_gradient(
    cap: float | None, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_loss_module, "_PACKED_ROWS", 50)  # several, the last one smaller
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(130, 12, generator=generator).bfloat16()
    ours = torch.randn(2, 3, 12, generator=generator).bfloat16().requires_grad_()
    theirs = ours.detach().double().requires_grad_()
    labels = torch.tensor([[4, 129, IGNORED], [0, 77, 3]])
    head = PlainRows(weight, packed=True)
    assert head.packed(0, 50, torch.bfloat16) is not None
    assert head.packed(100, 130, torch.bfloat16) is not None
    assert head.packed(0, 7, torch.bfloat16) is None
    assert head.packed(0, 50, torch.float32) is None
    loss = head_loss(ours, labels, head, soft_cap=cap, chunk=chunk)
    expected = head_loss(theirs, labels, PlainRows(weight.double()), soft_cap=cap)
    loss.backward()
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=2e-3)
    assert ours.grad is not None
    assert theirs.grad is not None
    assert float((ours.grad - theirs.grad).norm() / theirs.grad.norm()) < 1e-2


@pytest.mark.parametrize("cap", [None, 30.0, 90.0, 2000.0])
def test_in_fp32_no_cap_overflows_or_vanishes(cap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    # Logits of hundreds: their exponentials are no fp32 numbers.
    weight = 60 * torch.randn(500, 12, generator=generator)
    hidden = torch.randn(1, 4, 12, generator=generator)
    labels = torch.tensor([[4, 129, 50, 499]])
    losses, pulls = [], []
    for dtype in (torch.float32, torch.float64):
        x = hidden.to(dtype, copy=True).requires_grad_()
        loss = head_loss(x, labels, PlainRows(weight.to(dtype)), soft_cap=cap)
        loss.backward()
        losses.append(float(loss.detach()))
        assert x.grad is not None
        pulls.append(x.grad.double())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(*pulls, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("cap", [None, 30.0])
def test_a_loss_in_bf16_is_never_negative(cap: float | None) -> None:
    weight = torch.randn(4096, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    for i in range(20):  # hidden states that name their word with all but certainty
        hidden = (weight[i].float() * 0.13).bfloat16()[None, None]
        assert float(head_loss(hidden, torch.tensor([[i]]), PlainRows(weight), soft_cap=cap)) >= 0


def test_the_int8_head_is_that_of_its_dequantised_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers, scale = quantised_rows(torch.randn(130, 12, generator=generator))
    rows = QuantisedRows(numbers, scale)
    rows.chunk = 50
    plain = PlainRows(numbers * scale[:, None])
    hidden = torch.randn(1, 3, 12, generator=generator)
    labels = torch.tensor([[4, 129, 50]])
    losses, pulls = [], []
    for head in (rows, plain):
        x = hidden.clone().requires_grad_()
        loss = head_loss(x, labels, head, soft_cap=30.0)
        loss.backward()
        losses.append(float(loss.detach()))
        assert x.grad is not None
        pulls.append(x.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(*pulls, atol=1e-6)
