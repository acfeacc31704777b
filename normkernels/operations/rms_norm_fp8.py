"""RMSNorm with fp8 values: ``rms_norm``, rounded to x's dtype, then quantised by groups."""

from normkernels.launch import Arguments, Buffers
from normkernels.operations.operation import Flags, Tensors, memory
from normkernels.operations.quantisation import QuantisedNorm, fp8_memory, quantised_arguments
from normkernels.operations.rms_norm import RmsNorm, norm_arguments
from normkernels.plans import Plan


class RmsNormFp8(QuantisedNorm, RmsNorm):
    """``rms_norm_fp8``."""

    outputs = {"out": (), "residual_out": ("residual", "x")}  # noqa: RUF012  (typed in Operation)

    def buffers(self, tensors: Tensors, flags: Flags) -> Buffers:
        x, weight, residual, out, total = tensors
        total = None if residual is None else memory(total, x)
        return x, residual, weight, *fp8_memory(x, out, flags["how"]), total

    def arguments(self, flags: Flags, buffers: Buffers, plan: Plan) -> Arguments:
        # here, because the package imports without triton
        from normkernels.kernels.rms_norm_fp8 import rms_norm_fp8_kernel

        x, residual, weight, out, scales, y, total = buffers
        tensors = {"x": x, "residual": residual, "out": out, "y": y, "sum": total}
        args = norm_arguments(buffers, flags["norm"], plan) | {"PTX": plan.ptx}
        return rms_norm_fp8_kernel, args | quantised_arguments(tensors, weight, scales, flags)
