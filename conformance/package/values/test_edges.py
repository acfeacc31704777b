"""Values at the edges of their types, and tensors without elements: infinities, NaN, zeros, overflow, padding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from conformance.package.calls import fp8, mrope, rms_norm
from conformance.package.calls.operations import run
from conformance.package.calls.tensors import DEVICE, values
from conformance.selftest.every import every
from normkernels import plans
from normkernels.operations import mrope as of_mrope
from normkernels.plans import heads as of_heads

ROW_PATHS = ("rows", "native")
HEAD_PATHS = ("heads", "native")
LOW = torch.bfloat16


@every("path", ROW_PATHS)
def test_a_sum_may_overflow(path: str) -> None:
    """A sum past the range of x's dtype is infinite, and so are its squares: no finite number appears."""
    arguments = rms_norm.added(1, 4, dtype=torch.float16, path=path)
    arguments["residual"] = torch.full((1, 4), 1e30, device=DEVICE)
    y, total = run("rms_norm", arguments)

    assert torch.isinf(total).all()
    assert torch.isnan(y).all()


@every(("path", "fp8_dtype"), fp8.FORMS)
@every("operation", fp8.OPERATIONS)
def test_a_group_of_zeros_has_the_least_scale(operation: str, path: str, fp8_dtype: torch.dtype) -> None:
    """Nothing is divided by zero: zeros stay zero, and values far below the floor become zero."""
    arguments = fp8.call(operation, 4, 160, path=path, fp8_dtype=fp8_dtype)
    arguments["x"][1:, 64:] = 0.0
    arguments["x"][2] = 0.0
    arguments["weight"][64:128] = 1e-20
    got, scales = run(operation, arguments)
    floor = float(np.float32(fp8.FLOOR) / np.float32(fp8.MAX[fp8_dtype]))

    assert (scales[:, 1] == floor).all()
    assert (scales[1:, 2] == floor).all()
    assert (scales[2] == floor).all()
    assert (got[:, 64:128].float() == 0).all()
    assert (got[1:, 64:].float() == 0).all()
    fp8.assert_right(operation, arguments, (got, scales))


@every(("path", "fp8_dtype"), fp8.FORMS)
def test_the_largest_of_a_group_is_the_largest_of_the_type(path: str, fp8_dtype: torch.dtype) -> None:
    """With weights of 4,096 sizes no value exceeds it, even if y / scale is a step above it, and none is NaN."""
    weight = torch.linspace(1, 2, 4096, device=DEVICE) * 1e3
    arguments = fp8.call(
        "rms_norm_fp8", 1, 4096, x=torch.ones(1, 4096, device=DEVICE), weight=weight, eps=0.0, quant_group=1
    )
    got, scales = run("rms_norm_fp8", arguments | {"fp8_dtype": fp8_dtype, "path": path})
    above = fp8.numbers(weight[None]) > fp8.numbers(scales) * fp8.MAX[fp8_dtype]

    assert 100 < above.sum()
    assert (fp8.numbers(got) == fp8.MAX[fp8_dtype]).all()


@every(("path", "fp8_dtype"), fp8.FORMS)
@every("operation", fp8.OPERATIONS)
def test_what_is_not_finite_stays_in_its_group(operation: str, path: str, fp8_dtype: torch.dtype) -> None:
    """NaN makes its group NaN; an infinity makes its scale infinite, itself NaN and the rest of its group zero."""
    arguments = fp8.call(operation, 2, 160, path=path, fp8_dtype=fp8_dtype)
    arguments["weight"][7] = torch.nan
    arguments["weight"][70] = torch.inf
    got, scales = run(operation, arguments)

    assert scales[:, 0].isnan().all()
    assert got[:, :64].float().isnan().all()
    assert scales[:, 1].isposinf().all()
    assert torch.equal(got[:, 64:128].float().isnan(), (torch.arange(64, 128, device=DEVICE) == 70).expand(2, 64))
    assert (got[:, 64:128].float().nan_to_num(0.0) == 0).all()
    assert got[:, 128:].float().isfinite().all()
    fp8.assert_right(operation, arguments, (got, scales))


@every("path", ROW_PATHS)
@every("operation", fp8.OPERATIONS)
def test_a_row_with_nan_or_infinity_is_nan_alone(operation: str, path: str) -> None:
    """Other rows keep their bits. In the row of an infinity the norm is zero or NaN, by groups."""
    arguments = fp8.call(operation, 3, 160, path=path)
    want = run(operation, arguments)
    arguments["x"][1, 3] = torch.nan
    got, scales = run(operation, arguments)

    assert fp8.same([each[::2] for each in want], [each[::2] for each in (got, scales)])
    assert got[1].float().isnan().all()
    assert scales[1].isnan().all()
    arguments["x"][1, 3] = torch.inf
    got, scales = run(operation, arguments)
    assert fp8.same([each[::2] for each in want], [each[::2] for each in (got, scales)])
    assert got[1, :64].float().isnan().all()
    assert (got[1, 64:].float() == 0).all()
    fp8.assert_right(operation, arguments, (got, scales))


@every("path", ROW_PATHS)
@every("operation", fp8.OPERATIONS)
def test_padding_is_in_no_group(operation: str, path: str) -> None:
    """If 1 / rms is infinite, padding past the end of a row would be 0 * inf."""
    x = torch.full((2, 97), 1e-30, device=DEVICE)
    arguments = fp8.call(operation, 2, 97, x=x, eps=0.0, path=path) | {"weight": values("weight", 97).abs() + 0.1}
    if operation == "rms_norm_gated_fp8":
        arguments["gate"] = values("gate", 2, 97).abs() + 0.1
    _, scales = run(operation, arguments)

    assert scales.isposinf().all()


@every("path", HEAD_PATHS)
def test_what_is_not_rotated_keeps_its_bits(path: str) -> None:
    """NaN payloads, infinities and signs of zero are copied; a NaN among the rotated stays in its pair."""
    arguments = mrope.call(dtype=LOW, path=path)
    kept = torch.tensor([0x7F81, 0xFFC3, 0x7F80, 0xFF80, 0x8000, 0x0001], device=DEVICE, dtype=torch.int32)
    for name in ("q", "k"):
        arguments[name].view(torch.int16)[..., 40:46] = kept.to(torch.int16)
    results = mrope.run(arguments)

    mrope.assert_right(arguments, results)
    arguments["q"][2, 1, 5] = torch.nan
    found = mrope.run(arguments)[0][..., :32].isnan().nonzero().tolist()
    assert [[2, 1, 5], [2, 1, 21]] == found


@every("path", HEAD_PATHS)
@every("shape", [(0, (6, 2), 64), (0, (0, 0), 64), (5, (0, 0), 64), (5, (3, 2), 0)])
def test_empty_tensors_give_empty_rotations(shape: tuple[int, tuple[int, int], int], path: str) -> None:
    """Calls without tokens, heads or columns give empty results, in both ranks."""
    tokens, heads, head_dim = shape
    arguments = mrope.call(tokens, heads, head_dim, min(head_dim // 4, 16), path=path)
    for each in (arguments, mrope.flat(arguments)) if head_dim else (arguments,):
        wanted = [tuple(each[name].shape) for name in ("q", "k")]
        assert wanted == [tuple(result.shape) for result in mrope.run(each)]
        assert mrope.run(each, "mrope_")[0] is each["q"]


def test_an_empty_cache_serves_no_token() -> None:
    """A call without tokens accepts an empty cache."""
    arguments = mrope.call(0, cos=values("cos", 0, 16), sin=values("sin", 0, 16))

    assert (0, 6, 64) == mrope.run(arguments)[0].shape


@pytest.mark.parametrize("tokens", [1, 2, 8])
def test_programs_of_any_number_of_tokens_make_nan_outside_the_cache(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing outside the cache is read, so that what lies before and behind it does not show."""
    monkeypatch.setattr(of_mrope.Mrope, "check_values", lambda *_: None)
    monkeypatch.setattr(plans, "heads", lambda *given, **flags: replace(of_heads(*given, **flags), rows=tokens))
    plain = mrope.call(8)
    # what lies beside the tables is no NaN
    tables = {name: torch.cat([plain[name]] * 3).chunk(3)[1] for name in ("cos", "sin")}
    at = plain["positions"].clone()
    at[0, 1], at[1, 4], at[2, 6] = -1, mrope.MAX_POSITIONS, -mrope.MAX_POSITIONS
    at[:, 7] = torch.tensor([2, 2 * mrope.MAX_POSITIONS - 1, 2])

    plan = mrope.explain(plain).plan
    assert plan is not None
    assert tokens == plan.rows
    called = plain | tables | {"positions": at}
    for results in (mrope.run(called), mrope.run(called | {n: plain[n].clone() for n in "qk"}, "mrope_")):
        mrope.assert_right(called, results)
        assert all(x[[1, 4, 6, 7], :, :32].isnan().all() for x in results)


@every("axes", [1, 3])
@every("path", HEAD_PATHS)
def test_positions_outside_the_cache_make_nan(path: str, axes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rotated part of such a token is NaN, on any axis; its rest and all other tokens are unaffected.

    The CPU refuses such a call; without the refusal the test sees a GPU's result.
    """
    monkeypatch.setattr(of_mrope.Mrope, "check_values", lambda *_: None)
    outside = {1: -1, 3: mrope.MAX_POSITIONS, 4: 2**40, 6: -(2**63)}
    plain = mrope.call(8, path=path)
    inside = [token for token in range(8) if token not in outside]
    for shift in range(axes):
        at = plain["positions"].clone()
        for token, position in outside.items():
            at[(token + shift) % 3, token] = position
        if axes == 1:
            at = at[0].clone()
            at[list(outside)] = torch.tensor(list(outside.values()), device=DEVICE)
        q, k = mrope.run(plain | {"positions": at})
        arguments = {name: plain[name][inside] for name in ("q", "k")} | {"positions": at[..., inside]}

        assert all(x[list(outside), :, :32].isnan().all() for x in (q, k))
        assert torch.equal(plain["q"][..., 32:], q[..., 32:])
        mrope.assert_right(plain | arguments, (q[inside], k[inside]))
    # a cache without rows has no position inside
    empty = plain | {"cos": values("cos", 0, 16), "sin": values("sin", 0, 16)}
    for flags in ({}, {"interleaved": False, "sections": (0, 8, 8)}):
        assert mrope.run(empty | flags)[0][..., :32].isnan().all()
    # nor one without rows and columns, which rotates nothing
    nothing = plain | {name: values(name, 0, 0) for name in ("cos", "sin")} | {"sections": (0, 0, 0)}
    assert torch.equal(plain["q"], mrope.run(nothing)[0])
