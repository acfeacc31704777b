"""The one place that launches a kernel."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from normkernels.kernels.plans import Plan


# Any: triton has no types, and a kernel takes tensors, numbers and dtypes
def launch(
    kernel: Any,  # noqa: ANN401
    grid: tuple[int, ...],
    args: Mapping[str, Any],
    plan: Plan,
    device: torch.device,
) -> None:
    """Run ``kernel`` over ``grid`` on ``device``, which need not be the current one."""
    elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if elsewhere else nullcontext():
        # no fusion: a contracted x*x + y*y is not commutative, so its bits would depend on the layout
        kernel[grid](**args, num_warps=plan.warps, enable_fp_fusion=False)
