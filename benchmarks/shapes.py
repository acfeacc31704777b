"""Workloads to time: calls of real models, and the same calls at other sizes, the most informative first.

Each is a :class:`Workload` around a case of the conformance suite, so that the timed call itself can be judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from conformance.cases.case import SAME, Case, Layout, TensorSpec
from conformance.cases.corpus import ModelShape, model_shapes
from conformance.operations import OPERATIONS

IN_PLACE = "_"
GATED_MODEL, GEMMA_MODEL = "Qwen3-Next-80B-A3B", "Qwen3.5-27B"
# reads x and gate and writes one result; all others read about as much as they write
MOSTLY_READ = frozenset({"rms_norm_gated", "rms_norm_gated_fp8"})
AUTOTUNED = frozenset({"gated 64x32x128", "gated 60381x24x128", "gemma+res 128x2560", "gemma+res 8192x5120"})


@dataclass(frozen=True, slots=True)
class Workload:
    """One line of the table: a call, its preferred form (``_``: in place), and its comparisons.

    ``ceiling`` names the memory pattern that its bandwidth is compared with. ``beside`` names the workload that
    moves the same bytes and has a plan of its own, where this is the general form of it.
    """

    name: str
    case: Case
    form: str = ""
    beside: str = ""

    @property
    def ceiling(self) -> str:
        """Return ``triad`` if two numbers are read for one that is written, else ``copy``."""
        return "triad" if self.case.operation in MOSTLY_READ else "copy"

    @property
    def bytes(self) -> int:
        """Return the bytes that the call must move."""
        return moved(self.case, self.form)

    @property
    def autotuned(self) -> bool:
        """Return whether peers that search for minutes are timed on this workload too."""
        return self.name in AUTOTUNED


def workloads() -> tuple[Workload, ...]:
    """Return every workload, the most informative first: a run that ends early has covered a bit of everything."""
    every = (*_gated(), *_general(), *_norms(), *_rotations(), *_fp8())
    first = [one for name in _FIRST for one in every if one.name == name]
    return (*first, *(one for one in every if one not in first))


_FIRST = (
    "gated 1x24x128",
    "gated 64x32x128",
    "gated 60381x24x128",
    "gemma+res 1x5120",
    "gemma+res 128x2560",
    "gemma+res 8192x5120",
    "mrope in place 8192x(24+4)x256",
    "rms fp8+res 8192x7168",
    "gated strided 4096x32x128",
    "gated fp8 8192x32x128",
    "mrope in place 64x(24+4)x256",
    "gemma+res 65536x5120",
    "gated 65536x32x128",
)


# --- calls of real models ---------------------------------------------------------------------------------------


def _shape(operation: str, model: str, tp: int = 1, **flags: object) -> ModelShape:
    """Return the first shape of a model with these flags."""
    for shape in model_shapes():
        told = {"heads": shape.heads, "head_dim": shape.head_dim, **dict(shape.flags)}
        if (shape.operation, shape.model, shape.tp) == (operation, model, tp) and flags.items() <= told.items():
            return shape
    raise LookupError(f"no {operation} of {model} at tensor parallelism {tp} with {flags} in fixtures/models")


def _case(shape: ModelShape, tokens: int) -> Case:
    return OPERATIONS[shape.operation].model_case(shape, tokens)


def with_tokens(case: Case, tokens: int) -> Case:
    """Return the case with another number of tokens, in every tensor with a row per token."""
    operation = OPERATIONS[case.operation]
    for name, spec in case.tensors:
        if name in operation.row_tensors:
            shape = list(spec.shape)
            shape[operation.token_axes.get(name, 0)] = tokens
            case = case.with_tensor(name, replace(spec, shape=tuple(shape)))
    return case


def tokens_of(case: Case) -> int:
    """Return the first dimension of the first tensor."""
    return case.tensors[0][1].shape[0]


def _wide(case: Case, n: int) -> Case:
    """Return the case with rows of another width."""
    for name, spec in case.tensors:
        case = case.with_tensor(name, replace(spec, shape=(*spec.shape[:-1], n)))
    return case


def _laid(case: Case, kind: str) -> Case:
    """Return the case with every tensor contiguous, or x and gate as parts of one buffer."""
    for name, spec in case.tensors:
        part = ("x", "gate").index(name) if kind == "shared" and name in {"x", "gate"} else None
        layout = Layout() if part is None else Layout(kind, part)
        case = case.with_tensor(name, replace(spec, layout=layout))
    return case


def _gated_case(tokens: int, heads: int) -> Case:
    """Return the gated norm of some heads: Qwen3-Next's 32, Qwen3.5-27B's 48, or 24 on each of two ranks."""
    model, tp = {24: (GEMMA_MODEL, 2), 32: (GATED_MODEL, 1), 48: (GEMMA_MODEL, 1)}[heads]
    return _laid(_case(_shape("rms_norm_gated", model, tp, heads=heads), tokens), "contiguous")


def _gated() -> Iterator[Workload]:
    for tokens, heads in (
        *((1, 24), (16, 24), (64, 24), (256, 24), (60381, 24)),
        *((1, 32), (64, 32), (256, 32), (512, 32), (1024, 32), (4096, 32), (65536, 32)),
        *((1, 48), (128, 48), (512, 48)),
    ):
        yield Workload(f"gated {tokens}x{heads}x128", _gated_case(tokens, heads))


def _general() -> Iterator[Workload]:
    """Return calls outside the plans for contiguous rows of 128, with the same bytes or nearly."""
    heads = 32
    for tokens in (64, 4096):
        plain, size = _gated_case(tokens, heads), f"{tokens}x{heads}x128"
        beside = f"gated {size}"
        whole = f"{tokens}x{heads * 128}"
        weight = replace(_spec(plain, "weight"), dtype="float32")
        yield Workload(f"gated strided {size}", _laid(plain, "shared"), beside=beside)
        yield Workload(f"gated grouped {whole}", _in_groups(plain, tokens, heads), beside=beside)
        yield Workload(f"gated first {size}", plain.with_flag("norm_before_gate", value=False), beside=beside)
        yield Workload(f"gated odd {tokens}x{heads}x127", _wide(plain, 127), beside=beside)
        yield Workload(f"gated fp32 weight {size}", plain.with_tensor("weight", weight), beside=beside)


def _spec(case: Case, name: str) -> TensorSpec:
    spec = case.tensor(name)
    assert spec is not None
    return spec


def _in_groups(case: Case, tokens: int, heads: int) -> Case:
    """Return the case with all heads in one row, in groups of one head each."""
    n = _spec(case, "weight").shape[-1]
    for name, spec in case.tensors:
        shape = (heads * n,) if name == "weight" else (tokens, heads * n)
        case = case.with_tensor(name, replace(spec, shape=shape))
    return case.with_flag("group_size", n)


def _norms() -> Iterator[Workload]:
    added = _shape("gemma_rms_norm", GEMMA_MODEL, residual=True)
    for tokens, n in (
        *((1, 2048), (64, 2048), (8192, 2048)),
        *((128, 2560), (8192, 2560), (128, 3584), (8192, 3584)),
        *((1, 5120), (16, 5120), (512, 5120), (8192, 5120), (65536, 5120)),
        *((1, 8192), (512, 8192), (8192, 8192), (32768, 16384)),
    ):
        yield Workload(f"gemma+res {tokens}x{n}", _wide(_case(added, tokens), n))
    alone = _shape("gemma_rms_norm", GEMMA_MODEL, residual=False)
    for tokens in (128, 8192):
        yield Workload(f"gemma {tokens}x{alone.head_dim}", _case(alone, tokens))
    per_head = _shape("gemma_rms_norm", GATED_MODEL, head_dim=256)
    yield Workload(f"gemma 512x{per_head.heads}x256", _case(per_head, 512))
    plain = _shape("rms_norm", "Kimi-Linear-48B-A3B", residual=True)
    for tokens in (64, 8192):
        yield Workload(f"rms+res {tokens}x{plain.head_dim}", _case(plain, tokens))


def _rotations() -> Iterator[Workload]:
    turned, size = _shape("mrope", GEMMA_MODEL), "(24+4)x256"
    for tokens in (1, 64, 8192):
        yield Workload(f"mrope in place {tokens}x{size}", _case(turned, tokens), IN_PLACE)
    for tokens in (64, 8192):
        yield Workload(f"mrope {tokens}x{size}", _case(turned, tokens))
    by_section = _shape("mrope", "Qwen2-VL-72B", tp=2)
    yield Workload("mrope in place 8192x(32+4)x128", _case(by_section, 8192), IN_PLACE)


def _fp8() -> Iterator[Workload]:
    row = _shape("rms_norm_fp8", "DeepSeek-V3", residual=True)
    column = _shape("rms_norm_fp8", "DeepSeek-V3", residual=True, scale_layout="column")
    for tokens in (64, 8192):
        yield Workload(f"rms fp8+res {tokens}x7168", _case(row, tokens))
        yield Workload(f"rms fp8+res columns {tokens}x7168", _case(column, tokens))
    query = _shape("rms_norm_fp8", "DeepSeek-V3", head_dim=1536)
    for tokens in (512, 8192):
        yield Workload(f"rms fp8 {tokens}x1536", _case(query, tokens))
    both = _shape("rms_norm_fp8", GATED_MODEL, also_unquantised=True)
    yield Workload("rms fp8 and bf16+res 8192x2048", _case(both, 8192))
    gated = _shape("rms_norm_gated_fp8", GATED_MODEL)
    for tokens in (64, 8192):
        yield Workload(f"gated fp8 {tokens}x32x128", _case(gated, tokens))


# --- bytes ------------------------------------------------------------------------------------------------------


def moved(case: Case, form: str = "") -> int:
    """Return the bytes that a call must move: each input read once, each output written once.

    A rotation reads one row of each table a token, from tables of any size; in place, only the rotated part of
    q and k counts.
    """
    if case.operation == "mrope":
        return _turned(case, form)
    read = sum(size(spec) for _, spec in case.tensors if spec.layout.kind != SAME)
    written = OPERATIONS[case.operation].outputs(case)
    return read + sum(math.prod(output.shape) * output.dtype.itemsize for output in written)


def size(spec: TensorSpec) -> int:
    """Return the bytes of a tensor's elements."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return math.prod(spec.shape) * dtype.itemsize


def _turned(case: Case, form: str) -> int:
    heads = sum(size(_spec(case, name)) for name in ("q", "k"))
    cos = _spec(case, "cos")
    angles = 2 * tokens_of(case) * size(cos) // cos.shape[0]
    if form == IN_PLACE:
        head_dim = case.flag("head_dim") or _spec(case, "q").shape[-1]
        heads = heads * 2 * cos.shape[-1] // head_dim
    return 2 * heads + angles + size(_spec(case, "positions"))
