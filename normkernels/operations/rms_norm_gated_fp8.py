"""Gated RMSNorm with fp8 values: ``rms_norm_gated``, rounded to x's dtype, then quantised by groups."""

from normkernels.launch import Arguments, Buffers
from normkernels.operations.operation import Flags, Tensors
from normkernels.operations.quantisation import QuantisedNorm, fp8_memory, quantised_arguments
from normkernels.operations.rms_norm_gated import RmsNormGated, norm_arguments
from normkernels.plans import Plan


class RmsNormGatedFp8(QuantisedNorm, RmsNormGated):
    """``rms_norm_gated_fp8``."""

    outputs = {"out": ()}  # noqa: RUF012  (typed in Operation)

    def buffers(self, tensors: Tensors, flags: Flags) -> Buffers:
        x, gate, weight, out = tensors
        return x, gate, weight, *fp8_memory(x, out, flags["how"])

    def arguments(self, flags: Flags, buffers: Buffers, plan: Plan) -> Arguments:
        # here, because the package imports without triton
        from normkernels.kernels.rms_norm_gated_fp8 import rms_norm_gated_fp8_kernel

        x, gate, weight, out, scales, y = buffers
        cut, tensors = flags["cut"], {"x": x, "gate": gate, "out": out, "y": y}
        args = norm_arguments(buffers, flags["norm"], plan) | quantised_arguments(tensors, weight, scales, flags)
        return rms_norm_gated_fp8_kernel, args | {"N": x.shape[-1], "SPAN": cut.span, "BLOCK": cut.block}
