"""The models: inputs and tolerances of other suites, as data. They are models of these suites, and not the suites.

Figures are those of the suites' files at the commit of each link. Where a figure is not known, the model has a
plain one of its own that helps to catch: several rows, widths that are no power of two, normal values, an eps of
1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from conformance.cases.factors import DTYPES

Limits = Mapping[str, tuple[float, float]]  # by dtype: atol and rtol; a ratio is an rtol

SHAPES = ((1, 128), (7, 500), (33, 1024), (3, 4096))  # rows and columns, where those of a suite are not known
POWERS = ((7, 256), (33, 1024), (3, 4096))
WITH, WITHOUT_RESIDUAL = (), ("residual",)
BOTH = (WITH, WITHOUT_RESIDUAL)


class Rule(Enum):
    """The ways in which suites compare a result with their reference."""

    CLOSE = "each element differs by atol + rtol * |reference| at most"
    RATIO = "the root mean square of the differences is at most rtol of the reference's"
    WARNS = "as the ratio, but differences of at most atol everywhere only warn"
    TWICE = "the largest error is at most twice that of PyTorch in the same dtype, and atol"


@dataclass(frozen=True, slots=True)
class Part:
    """Some tests of a suite: calls of some operations, and how their results are compared.

    ``limits`` are those of outputs by dtype; an output whose dtype has none has those of x's dtype. The floats
    among them are the dtypes of x. Calls on heads have sizes of their own in place of ``shapes``. ``without``
    names the tensors that are left out, a tuple for each kind of call. ``eager``: the reference is PyTorch in the
    dtype of the call, and not in float32.
    """

    operations: tuple[str, ...]
    limits: Limits
    rule: Rule = Rule.CLOSE
    shapes: tuple[tuple[int, int], ...] = SHAPES
    values: str = "randn"
    weights: str = "randn"
    layouts: tuple[str, ...] = ("contiguous",)
    without: tuple[tuple[str, ...], ...] = (WITH,)
    positions: str = "random"
    eps: float = 1e-6
    eager: bool = False
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class Suite:
    """The model of a suite.

    ``checks_dtype``: it compares the dtype of a result too. ``poison``: memory that a call allocates holds NaN.
    """

    name: str
    source: str
    parts: tuple[Part, ...]
    checks_dtype: bool = True
    poison: bool = False


def every(limit: tuple[float, float], *dtypes: str) -> Limits:
    """Return the same limits for some dtypes."""
    return dict.fromkeys(dtypes, limit)


HALVES = ("float16", "bfloat16")
NORMS = ("rms_norm", "gemma_rms_norm")
LIGER: Limits = {"float32": (1e-4, 1e-6), "bfloat16": (2e-1, 2e-2)}
QUACK: Limits = {"bfloat16": (1e-1, 1e-3), "float16": (1e-2, 1e-3), "float32": (1e-4, 1e-3)}
# of torch.testing.assert_close, which has none for quantised numbers that a right result keeps: one code apart
TORCH: Limits = {
    "float32": (1e-5, 1.3e-6),
    "float16": (1e-5, 1e-3),
    "bfloat16": (1e-5, 1.6e-2),
    "float8_e4m3fn": (2.0**-9, 2.0**-3),
    "int8": (1.0, 0.0),
}
FLOATS = {name: TORCH[name] for name in DTYPES}
# of TorchCTS, which fails beyond its "usable" tolerances, five times those that it warns of
USABLE_NORMS: Limits = {"float32": (5e-4, 5e-4), "float16": (5e-2, 5e-2), "bfloat16": (2.5e-1, 1e-1)}
USABLE_ELEMENTS: Limits = {"float32": (5e-5, 5e-5), "float16": (5e-3, 5e-3), "bfloat16": (5e-2, 5e-2)}
TWICE: Limits = {"bfloat16": (5e-2, 0.0), "float16": (1e-2, 0.0), "float32": (1e-4, 0.0)}


def _fla(name: str, rule: Rule) -> Suite:
    # where differences only warn, they do up to 0.3
    third, fifth = every((0.3, 1e-3), "float32"), every((0.3, 1e-5), "float32", "bfloat16")
    parts = (
        Part(("rms_norm", "layer_norm"), third, rule, without=(WITHOUT_RESIDUAL,), eps=0.0),
        Part(("rms_norm_gated",), third, rule, eps=0.0),
        Part(("rope",), fifth, rule),
    )
    return Suite(
        name, "https://github.com/fla-org/flash-linear-attention/tree/bc3b101/tests/modules", parts, poison=True
    )


def _cts(operation: str, limits: Limits, shape: tuple[int, int], eps: float = 0.0) -> Part:
    without = (WITHOUT_RESIDUAL,)
    return Part(
        (operation,), limits, Rule.CLOSE, (shape,), "uniform", "uniform", without=without, eps=eps, eager=True
    )


SUITES = (
    Suite(
        "Liger",
        "https://github.com/linkedin/Liger-Kernel/tree/ead96b6/test/transformers",
        (
            Part(NORMS, LIGER, weights="ones", without=BOTH, eager=True),
            Part(("rms_norm",), LIGER, without=(("residual", "weight"),), eager=True),
            Part(("mrope",), {"float32": (1e-5, 1e-5), "bfloat16": (1e-1, 1e-5)}, positions="arange"),
        ),
        checks_dtype=False,
    ),
    _fla("fla", Rule.RATIO),
    _fla("fla in its CI", Rule.WARNS),
    Suite(
        "quack",
        "https://github.com/Dao-AILab/quack/blob/c8ec317/tests/test_rmsnorm.py",
        (
            Part(("rms_norm",), QUACK, shapes=(*SHAPES, (0, 1024)), without=BOTH),
            Part(("rms_norm",), QUACK, shapes=((7, 1024),), layouts=("row_gap",), without=(WITHOUT_RESIDUAL,)),
            Part(("gemma_rms_norm",), QUACK, shapes=POWERS, without=BOTH),
            Part(("rope",), every((1e-2, 1e-3), "bfloat16", "float16", "float32")),
        ),
    ),
    Suite(
        "FlashInfer",
        "https://github.com/flashinfer-ai/flashinfer/blob/fb28d72/tests/utils/test_norm.py",
        (
            Part(
                NORMS,
                every((1e-3, 1e-3), "float16"),
                shapes=(*SHAPES, (7, 4095), (3, 4097)),
                layouts=("contiguous", "row_gap"),
                without=(WITHOUT_RESIDUAL,),
            ),
            Part(NORMS, every((1e-3, 1e-3), "float16"), in_place=True),
            Part(("layer_norm",), every((1e-2, 1e-2), "bfloat16")),
            Part(("rms_norm_fp8",), {**every((1e-3, 1e-3), *HALVES), "float8_e4m3fn": (1.0, 1.0)}, without=BOTH),
        ),
    ),
    Suite(
        "vLLM core",
        "https://github.com/vllm-project/vllm/blob/041b9f5/tests/kernels/core/test_layernorm.py",
        (
            Part(
                NORMS,
                every((1e-2, 1e-2), *HALVES, "float32"),
                shapes=((7, 8), (7, 768), (7, 5120), (2, 8192)),
                values="scaled",
                layouts=("contiguous", "row_gap"),
                without=BOTH,
            ),
            Part(
                ("rms_norm_fp8",),
                {**every((1e-2, 1e-2), *HALVES, "float32"), "float8_e4m3fn": (1e-3, 1e-3)},
                shapes=((7, 768), (7, 5120), (2, 8192)),
                values="scaled",
                layouts=("contiguous", "row_gap"),
                without=BOTH,
            ),
            Part(("mrope",), every((1e-2, 1.6e-2), "bfloat16")),
        ),
    ),
    Suite(
        "vLLM IR",
        "https://github.com/vllm-project/vllm/blob/0d73436/tests/kernels/ir/test_layernorm.py",
        (
            Part(
                ("rms_norm",),
                {"float16": (1e-3, 1e-3), "bfloat16": (1e-3, 1.6e-2), "float32": (1e-3, 1.3e-6)},
                shapes=((7, 16), (7, 4096), (2, 8192)),
                without=(WITHOUT_RESIDUAL,),
            ),
        ),
    ),
    Suite(
        "flash-attention, twice",
        "https://github.com/Dao-AILab/flash-attention/blob/0251105/tests/ops/triton/test_layer_norm.py",
        (Part(("rms_norm", "layer_norm"), TWICE, Rule.TWICE, without=BOTH),),
    ),
    Suite(
        "torch.testing defaults",
        "https://docs.pytorch.org/docs/stable/testing.html",
        (
            Part(
                (
                    *NORMS,
                    *("rms_norm_gated", "rms_norm_fp8", "rms_norm_gated_fp8", "rms_norm_int8", "layer_norm"),
                    *("silu_and_mul", "gelu_and_mul", "l2_norm", "softmax", "quantise_fp8"),
                    *("mrope", "rope", "qk_norm_rope"),
                ),
                TORCH,
                without=BOTH,
            ),
        ),
    ),
    Suite(
        "OpInfo samples",
        "https://github.com/pytorch/pytorch/blob/main/torch/testing/_internal/common_methods_invocations.py",
        (
            Part(
                ("rms_norm", "layer_norm"),
                FLOATS,
                shapes=((2, 6), (1, 3), (4, 3), (0, 1)),
                without=(WITHOUT_RESIDUAL,),
            ),
        ),
    ),
    # its test of an RMS norm composes operations of a backend, in whose place a kernel is judged here
    Suite(
        "TorchCTS",
        "https://github.com/TorchCTS/TorchCTS/tree/1065c4f/torchcts",
        (
            _cts("rms_norm", USABLE_NORMS, (64, 32), 1e-6),
            _cts("layer_norm", USABLE_NORMS, (64, 32), 1e-5),
            _cts("softmax", USABLE_ELEMENTS, (16, 32)),
        ),
        checks_dtype=False,
    ),
)
