"""Adapters of third-party packages: their requirements and claims, and that no claimed call fails."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from conformance.adapter import KNOWN, Adapter, Declined, Ran, UsageError, load
from conformance.adapters.importing import needed
from conformance.adapters.tvm_ffi import refused_declined
from conformance.calls.call import Subject, perform
from conformance.calls.claim import claim, outside, said
from conformance.calls.declared import check
from conformance.calls.verdict import BAD, Status
from conformance.cases.case import Case, TensorSpec
from conformance.cases.factors import Scope, enumerated_cases
from conformance.operations import OPERATIONS
from conformance.oracle.contract import Contract
from conformance.properties.passive import judge_call

# The module that an adapter imports first, and its name for pip.
PACKAGES = {
    "liger": ("liger_kernel", "liger-kernel"),
    "fla": ("fla", "fla-core"),
    "fla-layernorm-gated": ("fla", "fla-core"),
    "mamba": ("mamba_ssm", "mamba_ssm"),
    "unsloth": ("unsloth_zoo", "unsloth"),
    "xformers": ("xformers", "xformers"),
    "torchnorm": ("torchnorm", "torchnorm"),
    "quack": ("quack", "quack-kernels"),
    "flashinfer": ("flashinfer", "flashinfer-python"),
    "vllm": ("vllm", "vllm"),
    "vllm-mamba": ("vllm", "vllm"),
}
# Calls in which a package is known to be wrong (docs/findings): a sum whose variance is that of the unrounded one,
# one column with a stride, a sum rounded to bfloat16, a parameter with a stride.
WRONG: dict[str, Callable[[Case], bool]] = {
    "xformers": lambda case: case.tensor("residual") is not None,
    "mamba": lambda case: case.tensors[0][1].shape[-1] == 1,
    "fla": lambda case: case.operation == "l2_norm" and case.tensors[0][1].shape[-1] == 1,
    "torchnorm": lambda case: (
        (case.tensor("residual") is not None and case.dtype != "bfloat16")
        or any(spec.layout.kind not in {"contiguous", "offset"} for name, spec in case.tensors if name != "x")
    ),
    "fla-layernorm-gated": lambda case: case.tensors[0][1].shape[-1] == 1,
    "vllm": lambda case: case.operation == "rms_norm_gated" and case.tensors[0][1].shape[-1] == 1,
    "vllm-mamba": lambda case: case.tensors[0][1].shape[-1] == 1,
}


@pytest.mark.parametrize("target", PACKAGES)
def test_without_its_package_an_adapter_says_what_to_install(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """Asking for a missing implementation is bad usage, with one line of help."""
    module, package = PACKAGES[target]
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(UsageError, match=f"needs {module}.*, pip install {package}: "):
        load(target)


def test_a_kernel_that_refuses_an_address_or_a_stride_declines() -> None:
    """The reason has the alignment, or the stride, and nothing that differs by call; other errors stay errors."""
    said = (
        "Misaligned Tensor data on argument #1 when calling: `__call__(mW: Tensor([2], float16))`, expected data "
    )

    with pytest.raises(Declined, match="its data begin at multiples of 16 bytes"), refused_declined():
        raise ValueError(f"{said}alignment=16 bytes")
    with pytest.raises(Declined, match="W must have a stride of 1"), refused_declined():
        raise ValueError("Mismatched mW.strides[0] on argument #1 when calling: `__call__`, expected to be 1")
    with pytest.raises(ValueError, match="shape"), refused_declined():
        raise ValueError("Mismatched shape on argument #1")


def _claims() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the claims of known adapters, by adapter and operation."""
    claims = {}
    for target in PACKAGES | {"compile": ()}:
        place, kind = KNOWN[target].split(":")
        takes = getattr(importlib.import_module(place), kind).takes
        claims.update({(target, operation): dict(claim) for operation, claim in takes.items()})
    return claims


CLAIMS = _claims()


@pytest.mark.parametrize(("target", "operation"), CLAIMS)
def test_a_claim_is_made_in_the_words_of_the_operation(target: str, operation: str) -> None:
    """Each word is a factor with some of its levels, a size with numbers, or pairs of levels."""
    taken = claim(target, operation, CLAIMS[target, operation])

    assert set(dict(taken.levels)) <= {"dtype", *OPERATIONS[operation].factors}
    assert said(operation, taken).startswith("takes ")


# packages warn about each other
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(("target", "operation"), [made for made in CLAIMS if made[0] in PACKAGES])
def test_nothing_that_a_package_claims_fails(target: str, operation: str, dtype: str) -> None:
    """Every claimed call of the covering array is right, also in the interpreter, except known bugs."""
    module = PACKAGES[target][0]
    if importlib.util.find_spec(module) is None or os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip(f"{module} is not installed, or its kernels are compiled here")
    interpreter = importlib.import_module("conformance.interpreter")
    interpreter.install()
    subject, about = Subject(load(target)), OPERATIONS[operation]
    check(subject.implementation())
    taken = claim(target, operation, CLAIMS[target, operation])
    if dtype not in dict(taken.levels).get("dtype", (dtype,)):
        pytest.skip(f"{dtype} is not claimed")
    # more calls where some of them are known to be wrong
    strength = 2 if target in WRONG else 1
    drawn = enumerated_cases(about.factors, about.complete, Scope(dtype, taken=taken), strength=strength, seed=1)
    cases = (case for case in drawn if not outside(taken, case))
    right = [case for case in cases if target not in WRONG or not WRONG[target](case)]
    verdicts = [verdict for case in right for verdict in judge_call(subject, case)]

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert any(v.status is Status.PASSED and v.comparison.elements for v in verdicts)


def test_a_module_is_imported_without_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The module's own imports work as usual; no line of its installed package has run."""
    inner = tmp_path / "needs_a_gpu" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "needs_a_gpu" / "__init__.py").write_text("raise RuntimeError('You need a GPU')\n")
    (inner / "__init__.py").write_text("raise RuntimeError('You need a GPU')\n")
    (inner / "kernels.py").write_text("from .sizes import SIZE\n")
    (inner / "sizes.py").write_text("SIZE = 7\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert 7 == needed("mine", "needs_a_gpu.inner.kernels", "needs-a-gpu", alone=True).SIZE


def test_a_compiled_function_is_judged_compiled() -> None:
    """Watching a call does not keep ``torch.compile`` from compiling it."""
    counters = torch._dynamo.utils.counters["stats"]
    x = TensorSpec((3, 8), "float32")
    case = Case("rms_norm", (("x", x),), (("eps", 1e-6), ("weight_offset", 0.0)))
    before = counters["unique_graphs"]
    compiled = torch.compile(lambda x, _weight, **_flags: x * 2, backend="eager", fullgraph=True)
    call = perform(Subject(_Doubled(compiled)), case)

    assert isinstance(call.outcome, Ran)
    assert before + 1 == counters["unique_graphs"]


class _Doubled(Adapter):
    """A norm that calls a given function."""

    contracts: ClassVar[dict[str, str | Contract]] = {"rms_norm": "fp32"}

    def __init__(self, function: Any) -> None:
        self._function = function

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor | None, **flags: Any) -> Any:
        """Call the function."""
        return self._function(x, weight, **flags)
