"""Gemma's RMSNorm: ``rms_norm`` with one added to the weight, in float32, every time."""

from conformance.operations.rms_norm import FACTORS, norm_operation

GEMMA_RMS_NORM = norm_operation(
    "gemma_rms_norm",
    {name: levels for name, levels in FACTORS.items() if name != "offset"} | {"weight": ("same", "float32")},
)
