"""RMSNorm and Gemma's: every form is right on both paths, with bits that depend on nothing else."""

from __future__ import annotations

import pytest
import torch

from conformance.package.calls.rms_norm import OPERATIONS, added, assert_right, call, run
from conformance.package.calls.tensors import DEVICE, strided, values
from normkernels import rms_norm_gated

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
DOUBLE = torch.float64


@pytest.mark.parametrize("path", ["rows", "native"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_form_is_right(operation: str, dtype: torch.dtype, path: str) -> None:
    """Results are right with each residual, weight and rounding, on strided 3-D tensors."""
    shape = (4, 3, 97)
    weights = [values("weight", 97, dtype=kind) for kind in {dtype, torch.float32}]
    residuals = [values("residual", 4, 97, 3, dtype=kind).mT for kind in DTYPES]
    for weight in [*weights, *([None] if operation == "rms_norm" else [])]:
        for residual in [None, *residuals]:
            for rounding in ("fp32", "hf"):
                x = strided(values("x", *shape, dtype=dtype))
                changes = {"weight": weight, "residual": residual, "rounding": rounding, "path": path}
                arguments = call(*shape, x=x) | changes
                assert_right(operation, arguments, run(operation, arguments))


@pytest.mark.parametrize("path", ["rows", "native"])
@pytest.mark.parametrize("offset", [0.0, 0, -0.0, 1.0, 0.1, -3])
def test_an_offset_is_added_to_the_weight(offset: float, path: str) -> None:
    """Any offset is added in fp32, also to narrow weights, and to ones if there is no weight."""
    weight = values("weight", 96, dtype=torch.bfloat16)
    for given in (weight, 16 * weight, None):
        arguments = call(3, 96, dtype=torch.bfloat16, weight=given, weight_offset=offset, path=path, rounding="hf")
        assert_right("rms_norm", arguments, run("rms_norm", arguments))


@pytest.mark.parametrize("path", ["rows", "native"])
def test_gemma_is_an_offset_of_one(path: str) -> None:
    """An offset of one has Gemma's bits in both roundings: Hugging Face's Gemma rounds once."""
    arguments = added(5, 96, dtype=torch.bfloat16, path=path)
    for rounding in ("fp32", "hf"):
        want = run("rms_norm", arguments | {"weight_offset": 1.0, "rounding": rounding})
        got = run("gemma_rms_norm", arguments | {"rounding": rounding})
        assert all(map(torch.equal, want, got))
    assert all(map(torch.equal, got, run("gemma_rms_norm", arguments)))


@pytest.mark.parametrize("width", [1, 128, 769])
def test_bits_are_those_of_the_gated_norm_without_a_gate(width: int) -> None:
    """The operations share their arithmetic."""
    arguments = call(5, width, dtype=torch.bfloat16)
    gated = rms_norm_gated(arguments["x"], None, arguments["weight"], eps=1e-6)

    assert torch.equal(gated, run("rms_norm", arguments)[0])


@pytest.mark.parametrize("width", [1, 3, 128, 769])
def test_bits_do_not_depend_on_the_batch(width: int) -> None:
    """A row has the same bits alone, in a batch, and in any layout."""
    batch = added(40, width)
    alone = {name: batch[name][17:18] for name in ("x", "residual")}
    want = [result[17:18] for result in run("rms_norm", batch)]

    assert all(map(torch.equal, want, run("rms_norm", batch | alone)))
    spread = {name: strided(each) for name, each in alone.items()}
    assert all(map(torch.equal, want, run("rms_norm", batch | spread)))


@pytest.mark.parametrize("path", ["rows", "native"])
def test_a_sum_may_overflow(path: str) -> None:
    """A sum past the range of x's dtype is infinite, and so are its squares: no finite number appears."""
    arguments = added(1, 4, dtype=torch.float16, path=path)
    arguments["residual"] = torch.full((1, 4), 1e30, device=DEVICE)
    y, total = run("rms_norm", arguments)

    assert torch.isinf(total).all()
    assert torch.isnan(y).all()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_gradients_are_those_of_the_formula(operation: str) -> None:
    """The native path gives x, residual and weight their gradients through y and s."""
    given = [values(name, *shape, dtype=DOUBLE) for name, shape in (("x", (3, 8)), ("r", (3, 8)), ("w", (8,)))]

    def both(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return run(operation, {"x": x, "residual": residual, "weight": weight, "eps": 1e-3})

    assert torch.autograd.gradcheck(both, [tensor.requires_grad_() for tensor in given])
