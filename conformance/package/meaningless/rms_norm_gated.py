"""Calls of gated RMSNorm without a meaning, and what their errors say."""

from __future__ import annotations

from conformance.package.calls.rms_norm_gated import call
from conformance.package.calls.tensors import Arguments, values
from conformance.package.meaningless.rows import Calls, changed, of_rows, of_shape


def shifted() -> Arguments:
    """Return a call whose out is x, one element on."""
    memory = values("x", 3 * 128 + 1)
    return call(x=memory[:-1].view(3, 128), out=memory[1:].view(3, 128))


def crossing() -> Arguments:
    """Return a call whose out is a strided view across x."""
    memory = values("x", 6, 256)
    return call(x=memory[:3, :128], out=memory[::2, 64:192])


BAD_CALLS: Calls = {
    **of_rows(call, 128),
    **of_shape(call, "gate", 128),
    **changed(
        call,
        {
            "weight none": ({"weight": None}, "weight is a NoneType, must be a tensor"),
            "group zero": ({"group_size": 0}, "group_size=0, must be None or a divisor of the 128 columns"),
            "group negative": ({"group_size": -64}, "group_size=-64, must be"),
            "group that does not divide": ({"group_size": 48}, "group_size=48, must be"),
            "group too wide": ({"group_size": 256}, "group_size=256, must be"),
            "group boolean": ({"group_size": True}, "group_size=True, must be"),
            "group fractional": ({"group_size": 64.0}, "group_size=64.0, must be"),
            "order as text": ({"norm_before_gate": "yes"}, "norm_before_gate='yes', must be one of True, False"),
            "order as a number": ({"norm_before_gate": 1}, "norm_before_gate=1, must be"),
            "activation": (
                {"activation": "gelu"},
                "activation='gelu', must be one of 'silu', 'swish', 'sigmoid'",
            ),
            "activation none": ({"activation": None}, "activation=None, must be"),
            "activation unhashable": ({"activation": ["silu"]}, r"activation=\['silu'\], must be"),
        },
    ),
    "out beside x": (shifted, "out shares memory with x, must have its own, or be x or gate as a whole"),
    "out across x": (crossing, "out shares memory with x, must have its own"),
    "out in the weight": (
        lambda: call(1, 128, out=(memory := values("o", 1, 128)), weight=memory[0]),
        "out shares memory with weight, must have its own",
    ),
}
