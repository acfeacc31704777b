"""The package's adapter declares to run in a kernel what its dispatcher sends to one, on every machine."""

from __future__ import annotations

from dataclasses import replace

import torch

import normkernels
from conformance.adapters.native import Native
from conformance.adapters.normkernels import NormKernels, launched
from conformance.calls.declared import Traits
from conformance.selftest.every import every
from normkernels.call import Device

MACHINE = Device.of(torch.empty(0))
FP8 = {"rms_norm_fp8", "rms_norm_gated_fp8"}
COLUMNS = launched(MACHINE)["rms_norm_fp8"]["columns"]
assert isinstance(COLUMNS, range)
WIDEST = COLUMNS[-1]


@every("given", [None, *(1, 3, 33, 65, 100, 128, 4097, WIDEST // 2 + 1)])
@every("columns", [WIDEST, WIDEST - 1, WIDEST - 63, WIDEST // 2 + 1])
def test_rows_of_any_quant_group_run_in_a_kernel(columns: int, given: int | None) -> None:
    """Up to the declared width: groups are padded to powers of two, which must fit into one block."""
    x = torch.empty(2, columns, dtype=torch.bfloat16)
    flags = {"eps": 1e-6, "quant_group": given, "fp8_dtype": torch.float8_e4m3fn, "weight_offset": 0.0}

    assert normkernels.explain("rms_norm_fp8", x=x, weight=None, residual=None, **flags).name != "native"


@every(("fp8", "missing"), [(("float8_e4m3fn",), set()), ((), FP8)])
def test_no_kernel_is_declared_for_a_type_that_a_gpu_lacks(fp8: tuple[str, ...], missing: set[str]) -> None:
    """A GPU may convert to one fp8 type, or to none."""
    claims = launched(replace(MACHINE, fp8=fp8))

    assert missing == NormKernels.contracts.keys() - claims.keys()
    assert all(claims[name]["fp8"] == fp8 for name in FP8 - missing)
    assert not launched(replace(MACHINE, has_triton=False))


def test_plain_pytorch_declares_no_kernel() -> None:
    """The other adapter of the package runs the same dispatcher, which is told to stay native."""
    assert all(Traits.of(NormKernels(), name).launches for name in NormKernels.contracts)
    assert not any(Traits.of(Native(), name).launches for name in Native.contracts)
