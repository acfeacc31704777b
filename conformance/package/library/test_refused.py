"""Calls without a meaning, and calls that cannot run: compiled, they raise as the eager ones do."""

from __future__ import annotations

import pytest
import torch

from conformance.package.calls import fp8, mrope
from conformance.package.calls.operations import call
from conformance.package.calls.tensors import DEVICE, Arguments, split, values
from conformance.package.library.calls import DOUBLE, LOW, NORM, ROTATIONS, compiled
from conformance.selftest.every import every
from normkernels import InvalidCall, PathUnavailable
from normkernels.operations.operation import OPERATIONS

GATED_128 = "rms_norm_gated"
BAD_CALLS: list[tuple[str, Arguments, str]] = [
    ("rms_norm", {"eps": -1.0}, "eps=-1.0, must be"),
    ("rms_norm", {"eps": True}, "eps=True, must be"),
    ("rms_norm", {"weight_offset": 1e39}, r"weight_offset=1e\+39, must be"),
    ("rms_norm", {"weight": values("w", 97)}, r"weight has shape \(97,\), must"),
    ("rms_norm", {"residual": values("r", 96)}, r"residual has shape"),
    ("rms_norm", {"weight": values("w", 96, dtype=LOW)}, "weight is torch.bfl"),
    ("rms_norm", {"out": values("o", 3, 96)}, "out is given, must be None"),
    ("gemma_rms_norm", {"rounding": "no"}, "rounding='no', must be"),
    ("gemma_rms_norm", {"weight": None}, "weight is a NoneType"),
    (
        "gemma_rms_norm",
        {"residual": values("residual", 3, 96), "residual_out": values("o", 3, 96)},
        "residual_out is given, must be None",
    ),
    (GATED_128, {"path": "no"}, "path='no', must be"),
    (GATED_128, {"gate": values("r", 1, 128)}, r"gate has shape"),
    (GATED_128, {"group_size": 3}, "group_size=3, must"),
    (GATED_128, {"activation": "no"}, "activation='no', must"),
    (GATED_128, {"norm_before_gate": 1}, "norm_before_gate=1, must"),
    (GATED_128, {"out": values("o", 3, 128)}, "out is given"),
    *(
        (operation, changes, message)
        for operation in fp8.OPERATIONS
        for changes, message in (
            ({"eps": True}, "eps=True, must be"),
            ({"quant_group": 0}, "quant_group=0, must be None or"),
            ({"quant_group": True}, "quant_group=True, must be"),
            ({"scale_layout": "no"}, "scale_layout='no', must be one of"),
            ({"fp8_dtype": LOW}, "fp8_dtype=torch.bfloat16, must be one of"),
            ({"fp8_dtype": "e4m3"}, "fp8_dtype='e4m3', must be one of"),
            ({"also_unquantised": 1}, "also_unquantised=1, must be one of"),
            ({"rounding": "no"}, "rounding='no', must be"),
            ({"path": "no"}, "path='no', must be"),
            ({"weight": values("w", 97)}, r"weight has shape \(97,\), must"),
            ({"out": values("o", 3, 96).to(torch.float8_e4m3fn)}, "out is given, must be None"),
        )
    ),
    *(
        (operation, changes, message)
        for operation in ROTATIONS
        for changes, message in (
            ({"sections": (6, 5, 4)}, r"sections=\(6, 5, 4\), must be three integers"),
            ({"head_dim": 32}, "head_dim=32, must be None or the 64 columns of q"),
            ({"head_dim": True}, "head_dim=True, must be"),
            ({"interleaved": 1}, "interleaved=1, must be one of True, False"),
            ({"path": "rows"}, "path='rows', must be one of 'heads', 'native'"),
            ({"k": values("k", 5, 2, 32)}, r"k has shape \(5, 2, 32\), must be as q"),
            ({"positions": mrope.positions(5).float()}, "positions is torch.float32, must be one of"),
            ({"cos": values("cos", 51, 33)}, r"cos has shape \(51, 33\), must be"),
        )
    ),
]


@every("whole", [True, False])
@every(
    ("operation", "changes", "message"),
    [pytest.param(*each, id=f"{each[0]}: {next(iter(each[1]))} {place}") for place, each in enumerate(BAD_CALLS)],
)
def test_a_call_without_meaning_raises_while_it_is_traced(
    operation: str,
    changes: Arguments,
    message: str,
    whole: bool,  # noqa: FBT001 - without graph breaks
) -> None:
    """The message is the eager call's, with or without graph breaks; calls with given outputs raise too."""
    torch._dynamo.reset()
    tensors, flags = split(call(operation, **changes))
    traced = compiled(operation, flags, fullgraph=whole)

    # the exception, and not its text among the arguments of the op that raises
    with pytest.raises(torch._dynamo.exc.TorchDynamoException, match=rf"InvalidCall\(.{operation}: {message}"):
        traced(tensors)


@every("operation", ["rms_norm", NORM, *ROTATIONS])
def test_a_path_that_cannot_run_raises_when_it_runs(operation: str) -> None:
    """The path raises at run time, as in an eager call: a compiler does not know the machine."""
    tensors, flags = split(call(operation, dtype=DOUBLE, path=str(OPERATIONS[operation].path)))

    with pytest.raises(PathUnavailable, match="DTYPE"):
        compiled(operation, flags)(tensors)


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU makes NaN of it")
@pytest.mark.parametrize("operation", ROTATIONS)
def test_positions_outside_the_cache_raise_when_they_run(operation: str) -> None:
    """A compiler knows no positions."""
    tensors, flags = split(mrope.call(positions=mrope.positions(5) + 60))

    with pytest.raises(InvalidCall, match=r"positions has .*, must be at least 0"):
        compiled(operation, flags)(tensors)
