"""Implementations that ours is timed against: known adapters of the suite, which judges each before its timing."""

from __future__ import annotations

OURS = "normkernels"
# by the name shown in tables, in the order of the columns
PEERS = {
    "eager": "eager",
    "F.rms_norm": "torch",
    "compile": "compile-static",
    "compile autotuned": "compile-autotuned",
    "two steps": "two-steps",
    "original": "original",
    "multi-row": "multi-row",
    "liger": "liger",
    "fla fused": "fla",
    "fla layernorm": "fla-layernorm-gated",
    "quack": "quack",
    "flashinfer": "flashinfer",
}
# peers that search for seconds a shape: timed only in workloads that ask for them
SLOW_TO_BUILD = frozenset({"compile autotuned"})
# peers that choose by measuring, and may choose differently in another process
SEARCHING = frozenset({"compile", "compile autotuned", "fla fused", "fla layernorm"})
