"""Calls on tensors without memory of their own: meta, fake, functionalised, batched and distributed ones.

A form that writes into given outputs, or in place, does there what the form without outputs does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

import normkernels as nk
from normkernels import Path
from normkernels.call import Device
from normkernels.operations.operation import ENVIRONMENT, OPERATIONS, decide, reread_environment

Call = Callable[..., Any]
Plainly = Callable[..., tuple[torch.Tensor, ...]]
EPS: dict[str, Any] = {"eps": 1e-6}
FP8: dict[str, Any] = {**EPS, "quant_group": 32, "fp8_dtype": torch.float8_e4m3fn}
TURN: dict[str, Any] = {"sections": (2, 1, 1), "head_dim": 16}


# Every form of a call, with x, y of the same shape, a weight, memory for fp8 values, positions and angles.
CALLS: dict[str, Call] = {
    "norm": lambda x, y, w, v, *turn: nk.rms_norm(x, w, **EPS),
    "norm into y": lambda x, y, w, v, *turn: nk.rms_norm(x, w, **EPS, out=y),
    "norm into x": lambda x, y, w, v, *turn: nk.gemma_rms_norm(x, w, **EPS, out=x),
    "sum": lambda x, y, w, v, *turn: nk.rms_norm(x, w, residual=y, **EPS),
    "sum into both": lambda x, y, w, v, *turn: nk.rms_norm(x, w, residual=y, **EPS, out=x, residual_out=y),
    "gated": lambda x, y, w, v, *turn: nk.rms_norm_gated(x, y, w, **EPS),
    "gated into y": lambda x, y, w, v, *turn: nk.rms_norm_gated(x, y, w, **EPS, out=y),
    "fp8": lambda x, y, w, v, *turn: nk.rms_norm_fp8(x, w, residual=y, **FP8, also_unquantised=True),
    "fp8 in columns": lambda x, y, w, v, *turn: nk.rms_norm_fp8(x, w, **FP8, scale_layout="column"),
    "fp8 into both": lambda x, y, w, v, *turn: nk.rms_norm_fp8(x, w, residual=y, **FP8, out=v, residual_out=y),
    "gated fp8": lambda x, y, w, v, *turn: nk.rms_norm_gated_fp8(x, y, w, **FP8, group_size=32),
    "rotation": lambda x, y, w, v, *turn: nk.mrope(x, y, *turn, **TURN),
    "rotation in place": lambda x, y, w, v, *turn: nk.mrope_(x, y, *turn, **TURN),
    "rotation by sections": lambda x, y, w, v, *turn: nk.mrope(x, y, *turn, **TURN, interleaved=False),
}


def given(*batch: int) -> list[torch.Tensor]:
    """Return the tensors of a call, the same each time; those that a batch has begin with its sizes."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, *batch, 4, 64, generator=generator)
    w, (cos, sin) = torch.randn(64, generator=generator), torch.randn(2, 9, 4, generator=generator)
    v, positions = torch.zeros_like(x, dtype=FP8["fp8_dtype"]), torch.arange(12).view(3, 4) % 9
    return [x, y, w, v, positions, cos, sin]


def run(call: Call, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Make a call on copies, and return its results as a tuple."""
    made = call(*(each.clone() for each in tensors))
    return made if isinstance(made, tuple) else (made,)


@pytest.fixture(name="plainly")
def _plainly(monkeypatch: pytest.MonkeyPatch) -> Plainly:
    """Return a function that makes a call on plain tensors, on the path of tensors without memory."""

    def plainly(call: Call, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        monkeypatch.setenv(ENVIRONMENT, "native")
        reread_environment()
        made = run(call, tensors)
        monkeypatch.delenv(ENVIRONMENT)
        reread_environment()
        return made

    return plainly


def assert_equal(wanted: Sequence[torch.Tensor], made: Sequence[torch.Tensor]) -> None:
    """Compare results with values; fp8 values, which have no comparison of their own, are converted."""
    for one, other in zip(wanted, made, strict=True):
        assert torch.equal(one.double(), other.double())


@pytest.mark.parametrize("kind", ["meta", "fake"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_results_without_values(call: Call, kind: str, plainly: Plainly) -> None:
    """Meta and fake tensors give tensors of their kind, with the shapes, dtypes and strides of a real call."""
    real = given()
    with FakeTensorMode() if kind == "fake" else torch.device("meta"):
        tensors = [torch.empty(each.shape, dtype=each.dtype) for each in real]
        made = run(call, tensors)

    assert {(type(each), each.device) for each in tensors} == {(type(each), each.device) for each in made}
    assert [(each.shape, each.dtype, each.stride()) for each in plainly(call, real)] == [
        (each.shape, each.dtype, each.stride()) for each in made
    ]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_results_of_functionalised_tensors(call: Call, plainly: Plainly) -> None:
    """The results are those of the call itself."""
    made = torch.func.functionalize(lambda *tensors: run(call, tensors))(*given())

    assert_equal(plainly(call, given()), made)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_results_of_batched_tensors(call: Call, plainly: Plainly) -> None:
    """Under vmap the results are those of each call of the batch."""
    batch = given(2)
    dims = (0, 0, None, 0, None, None, None)
    made = torch.vmap(lambda *tensors: run(call, tensors), in_dims=dims)(*batch)

    for number in range(2):
        alone = [each if dim is None else each[number] for each, dim in zip(batch, dims, strict=True)]
        assert_equal(plainly(call, alone), [each[number] for each in made])


@pytest.mark.parametrize("rows", [Replicate(), Shard(0)], ids=str)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_results_of_distributed_tensors(call: Call, rows: Placement, mesh: DeviceMesh, plainly: Plainly) -> None:
    """The results are distributed too, and have the values of the call itself."""
    places = (rows, rows, Replicate(), rows, Replicate(), Replicate(), Replicate())
    tensors = [DTensor.from_local(each, mesh, [place]) for each, place in zip(given(), places, strict=True)]
    made = run(call, tensors)

    assert {DTensor} == set(map(type, made))
    assert_equal(plainly(call, given()), [each.to_local() for each in made])  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "path"), [("cpu", Path.ROWS), ("meta", Path.NATIVE)])
def test_meta_tensors_are_not_interpreted(kind: str, path: Path) -> None:
    """The interpreter reads memory, so it does not count as a GPU for tensors without memory."""
    x = torch.empty(4, 64, device=kind)
    norm = OPERATIONS["rms_norm"]
    given = dict.fromkeys((*norm.tensors, *norm.flags)) | {"x": x, "eps": 1e-6}
    given |= {"weight_offset": 0.0, "rounding": "fp32"}
    call = norm.describe(given, norm.resolve(given))
    device = replace(Device.of(x), has_triton=True, interpreting=True)

    assert path is decide(norm, call, device, None).path
