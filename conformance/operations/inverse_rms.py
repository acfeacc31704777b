"""The factor ``1 / sqrt(mean(v**2) + eps)`` of every norm."""

from __future__ import annotations

import torch

from conformance.oracle.arithmetic import Machine
from conformance.oracle.contract import Contract, Point, round_once
from conformance.oracle.interval import Interval

# the rounding points of this factor: all of them grow with the square of the input, or its inverse
STATISTICS = (Point("square", scales=True), Point("variance", scales=True), Point("rstd", scales=True))


def inverse_rms(machine: Machine, contract: Contract, stream: Interval, eps: float, kind: torch.dtype) -> Interval:
    """Return ``1 / sqrt(mean(stream**2) + eps)`` over the last dimension, kept."""
    squares = contract.at("square", machine.square(stream), kind)
    mean = machine.mean(squares, contract.additions(stream.lo.shape[-1]))
    return inverse_root(machine, contract, mean, eps, kind)


def inverse_root(
    machine: Machine, contract: Contract, mean: Interval, eps: float, kind: torch.dtype, *, point: str = "variance"
) -> Interval:
    """Return ``1 / sqrt(mean + eps)`` of a mean of squares, or of their sum, which is rounded at ``point``.

    Kernels take eps as float32. Where the variance itself is rounded (plain PyTorch), eps may have been
    rounded as well before it is added, and rsqrt may be the reciprocal of a rounded root: both were seen on
    one machine, in one tensor.
    """
    mean = contract.at(point, mean, kind)
    added = Interval.single(eps, mean.lo.device)
    if point in contract.rounds:
        added = added.hull(Interval.exactly(round_once(added.lo, kind)))
    variance = contract.at(point, machine.add(mean, added), kind)
    direct = contract.at("rstd", machine.rsqrt(variance), kind)
    if "rstd" not in contract.rounds:
        return direct
    root = contract.at("rstd", machine.sqrt(variance), kind)
    return direct.hull(contract.at("rstd", machine.reciprocal(root), kind))
