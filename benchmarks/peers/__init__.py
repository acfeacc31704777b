"""Implementations that users can install or write: an adapter each, so that the suite can judge them as well.

``conform run benchmarks/peers/liger_norms.py`` judges one in full. The modules are not named like the packages
that they call: a package of the same name would hide behind them.
"""

from __future__ import annotations

OURS = "normkernels"
# by the name shown in tables, in the order of the columns
PEERS = {
    "eager": "benchmarks.peers.eager:Eager",
    "F.rms_norm": "torch",
    "compile": "benchmarks.peers.compiled:Compiled",
    "compile autotuned": "benchmarks.peers.compiled:Autotuned",
    "two steps": "benchmarks.peers.two_steps:TwoSteps",
    "original": "benchmarks.peers.original:Original",
    "multi-row": "benchmarks.peers.multi_row:MultiRow",
    "liger": "benchmarks.peers.liger_norms:Liger",
    "fla fused": "benchmarks.peers.fla_norms:FusedNormGate",
    "fla layernorm": "benchmarks.peers.fla_norms:LayerNormGated",
    "quack": "benchmarks.peers.quack_norms:Quack",
    "flashinfer": "benchmarks.peers.flashinfer_norms:FlashInfer",
}
# peers that search for seconds a shape: timed only in workloads that ask for them
SLOW_TO_BUILD = frozenset({"compile autotuned"})
# peers that choose by measuring, and may choose differently in another process
SEARCHING = frozenset({"compile", "compile autotuned", "fla fused", "fla layernorm"})
