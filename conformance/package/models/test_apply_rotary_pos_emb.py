"""The function that replaces transformers' rotation accepts the same arguments."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen3_5.modeling_qwen3_5 import apply_rotary_pos_emb as theirs

from conformance.package.calls.tensors import values
from normkernels import InvalidCall
from normkernels import apply_rotary_pos_emb as ours

Call = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def call(dim: int, batch: int, rotary_dim: int, dtype: torch.dtype = torch.float32) -> Call:
    """Return q and k of two sequences of 5 tokens, with the heads in a dimension, and cos and sin of a batch."""
    q, k = (values(name, 2, 5, heads, 16, dtype=dtype) for name, heads in (("q", 3), ("k", 1)))
    cos, sin = (values(name, batch, 5, rotary_dim // 2, dtype=dtype).repeat(1, 1, 2) for name in ("cos", "sin"))
    return (q.transpose(1, 2), k.transpose(1, 2), cos, sin) if dim == 1 else (q, k, cos, sin)


@pytest.mark.parametrize("rotary_dim", [16, 8])
@pytest.mark.parametrize("batch", [2, 1])
@pytest.mark.parametrize("dim", [1, 2])
def test_every_form_of_a_call_is_theirs(dim: int, batch: int, rotary_dim: int) -> None:
    """Heads in either dimension, shared angles and partly rotated heads give transformers' results."""
    given = call(dim, batch, rotary_dim)

    for one, other in zip(theirs(*given, unsqueeze_dim=dim), ours(*given, dim), strict=True):
        assert torch.equal(other, one)
        assert (one.shape, one.dtype) == (other.shape, other.dtype)


def test_the_default_device_is_not_used() -> None:
    """All that a call makes is on the device of q."""
    given = call(1, 2, 8)
    wanted = ours(*given)
    with torch.device("meta"):
        results = ours(*given)

    assert all(torch.equal(want, got) for want, got in zip(wanted, results, strict=True))


@pytest.mark.parametrize("dim", [1, 2])
def test_gradients_flow(dim: int) -> None:
    """The gradients of q, k and the angles are those of the formula."""
    given = [each.requires_grad_() for each in call(dim, 1, 8, torch.float64)]

    assert torch.autograd.gradcheck(lambda q, k, cos, sin: ours(q, k, cos, sin, unsqueeze_dim=dim), given)


def test_heads_in_another_dimension_are_refused() -> None:
    """The message names the given dimension and the allowed ones."""
    with pytest.raises(InvalidCall, match="apply_rotary_pos_emb: unsqueeze_dim=0, must be 1 or 2"):
        ours(*call(1, 1, 8), 0)
