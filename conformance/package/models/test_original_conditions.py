"""The seven conditions for which the change this project starts from fell back to native.

Each is judged on the path chosen here and on ``native``, in every dtype; ranks 2 and 4 keep the fast plan.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from conformance.package.calls.rms_norm_gated import assert_right, call, explain, run
from conformance.package.calls.tensors import Arguments, strided, values
from normkernels.operations import rms_norm_gated as gated

DTYPES = [torch.bfloat16, torch.float16, torch.float32]

# The change of each condition to a call of (tokens, heads, 128), and the plan that runs it here.
CONDITIONS: dict[str, tuple[Callable[[torch.dtype], Arguments], str]] = {
    "no gate": (lambda dtype: call(5, 3, 128, dtype=dtype, gate=None), "rows/general"),
    "two-dimensional": (lambda dtype: call(5, 128, dtype=dtype), "rows/decode128"),
    "four-dimensional": (lambda dtype: call(2, 5, 3, 128, dtype=dtype), "rows/decode128"),
    "grouped": (lambda dtype: call(5, 3, 128, dtype=dtype, group_size=32), "rows/general"),
    "gate before norm": (
        lambda dtype: call(5, 3, 128, dtype=dtype, norm_before_gate=False),
        "rows/general",
    ),
    "width not 128": (lambda dtype: call(5, 3, 96, dtype=dtype), "rows/general"),
    "x not contiguous": (
        lambda dtype: call(5, 3, 128, dtype=dtype, x=strided(values("x", 5, 3, 128, dtype=dtype))),
        "rows/general",
    ),
    "gate not contiguous": (
        lambda dtype: call(5, 3, 128, dtype=dtype, gate=strided(values("gate", 5, 3, 128, dtype=dtype))),
        "rows/general",
    ),
}


def judge(arguments: Arguments, result: torch.Tensor) -> None:
    """Check a result against the contract: the one place where these tests compare values."""
    assert_right(arguments, result)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_runs_on_triton_and_is_right(condition: str, dtype: torch.dtype) -> None:
    """No condition falls back any more, and each result is right."""
    make, plan = CONDITIONS[condition]
    arguments = make(dtype)

    judge(arguments, run(arguments))
    # small batches: the plan table of the interpreter and that of a GPU agree below 8 rows of any tile
    assert plan == explain(arguments).name.replace("prefill", "decode")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_is_right_on_native(condition: str, dtype: torch.dtype) -> None:
    """The former fallback of these calls is right as well."""
    make, _ = CONDITIONS[condition]
    arguments = make(dtype) | {"path": "native"}

    judge(arguments, run(arguments))


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_result_does_not_change_meaning_with_its_path(condition: str) -> None:
    """Shape, dtype and layout are those of native, whatever the condition."""
    make, _ = CONDITIONS[condition]
    chosen = run(make(torch.bfloat16))
    fallback = run(make(torch.bfloat16) | {"path": "native"})

    assert (fallback.shape, fallback.dtype) == (chosen.shape, chosen.dtype)
    assert fallback.stride() == chosen.stride()


def test_native_is_what_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """``path="native"`` runs the native form."""
    monkeypatch.setattr(gated, "native", lambda *_args, **_flags: "native ran")

    assert run(call(path="native")) == "native ran"
    assert run(call(path="rows")) != "native ran"


def test_contiguity_alone_changes_no_bit() -> None:
    """The same values in another layout give the same bits: plans of one path sum alike."""
    shape = (5, 3, 128)
    apart = call(*shape, x=strided(values("x", *shape)), gate=strided(values("gate", *shape)))

    assert torch.equal(run(call(*shape)), run(apart))


@pytest.mark.parametrize("path", ["rows", "native"])
def test_a_fresh_result_is_contiguous(path: str) -> None:
    """The result is contiguous also for a transposed x, whose layout PyTorch's own arithmetic would keep."""
    x = values("x", 128, 5).t()
    arguments = call(5, 128, x=x, gate=x, path=path)

    judge(arguments, run(arguments))
    assert run(arguments).is_contiguous()
