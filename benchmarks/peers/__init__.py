"""Implementations that users can install or write: an adapter each, so that the suite can judge them as well.

``conform run benchmarks/peers/liger_norms.py`` judges one in full. The modules are not named like the packages
that they call: a package of the same name would hide behind them.
"""

from __future__ import annotations

OURS = "normkernels"
# by the name shown in tables, in the order of the columns
PEERS = {
    "eager": "conformance.adapters.eager:Eager",
    "F.rms_norm": "torch",
    "compile": "conformance.adapters.compiled:Compiled",
    "compile autotuned": "conformance.adapters.compiled:Autotuned",
    "two steps": "conformance.adapters.two_steps:TwoSteps",
    "original": "conformance.adapters.original:Original",
    "multi-row": "conformance.adapters.multi_row:MultiRow",
    "liger": "benchmarks.peers.liger_norms:Liger",
    "fla fused": "benchmarks.peers.fla_norms:FusedNormGate",
    "fla layernorm": "benchmarks.peers.fla_norms:LayerNormGated",
    "quack": "conformance.adapters.quack:Quack",
    "flashinfer": "conformance.adapters.flashinfer:FlashInfer",
}
# peers that search for seconds a shape: timed only in workloads that ask for them
SLOW_TO_BUILD = frozenset({"compile autotuned"})
# peers that choose by measuring, and may choose differently in another process
SEARCHING = frozenset({"compile", "compile autotuned", "fla fused", "fla layernorm"})
