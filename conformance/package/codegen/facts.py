"""Facts read from compiled code. Pure: text in, numbers out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Facts:
    """One compiled kernel.

    ``registers`` and ``spilled`` (bytes in memory) are a thread's, ``scalars_spilled`` the scalar registers that
    AMD keeps in lanes of vector ones; ``shared`` (bytes) and ``threads`` are a program's. ``loads`` and ``stores``
    count the accesses of tensors by the bytes that a thread moves at once. ``fused`` counts multiplications fused
    with an addition, except those that a division is made of or that the kernel asks for; ``fp8`` the hardware's
    conversions to an fp8 type; ``divisions`` those rounded to nearest, and ``approximate`` those that are not.
    ``half_additions`` are additions in fp16. ``bytes`` is the length of the assembly text. ``scattered`` counts
    the reductions over an axis in non-adjacent lanes, or in non-adjacent warps.
    """

    kernel: str
    plan: str
    access: str
    threads: int
    registers: int
    spilled: int
    scalars_spilled: int
    shared: int
    loads: Mapping[int, int]
    stores: Mapping[int, int]
    barriers: int
    fused: int
    fp8: int
    divisions: int
    approximate: int
    half_additions: int
    bytes: int
    scattered: int

    @property
    def accesses(self) -> Mapping[int, int]:
        """Loads and stores together."""
        return Counter(self.loads) + Counter(self.stores)

    @property
    def narrow(self) -> int:
        """The number of accesses that move less than 16 bytes."""
        return sum(count for size, count in self.accesses.items() if size < WIDE)

    def to_data(self) -> dict[str, Any]:
        """Return plain data for JSON, whose keys are strings."""
        return {**asdict(self), "loads": _named(self.loads), "stores": _named(self.stores)}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Facts:
        """Read the data of :meth:`to_data`."""
        return cls(**{**data, "loads": _numbered(data["loads"]), "stores": _numbered(data["stores"])})


# the most bytes that a thread can move at once on every target
WIDE = 16


def _named(sizes: Mapping[int, int]) -> dict[str, int]:
    return {str(size): sizes[size] for size in sorted(sizes)}


def _numbered(sizes: Mapping[str, int]) -> dict[int, int]:
    return {int(size): count for size, count in sizes.items()}


def of_nvidia(ptx: str, log: str) -> dict[str, Any]:
    """Return the facts in PTX and in the output of ``ptxas -v`` for it."""
    accesses = list(_PTX_ACCESS.finditer(ptx))
    return {
        "registers": _said(_REGISTERS, log),
        "spilled": _said(_SPILLED, log),
        "scalars_spilled": 0,
        "loads": _sizes(_ptx_bytes(at["suffix"]) for at in accesses if at["kind"] == "ld"),
        "stores": _sizes(_ptx_bytes(at["suffix"]) for at in accesses if at["kind"] == "st"),
        "barriers": _count(r"\bbar(?:rier)?\.", ptx),
        "fused": _fused(ptx),
        "fp8": _count(r"\bcvt\.\S*\.e4m3x2\.", ptx),
        "divisions": _count(r"\bdiv\.rn\.f32", ptx),
        "approximate": _count(r"\bdiv\.(?!rn)\w+\.f32", ptx),
        "half_additions": _count(r"\badd\S*\.f16", ptx),
        "bytes": len(ptx),
    }


def of_amd(amdgcn: str) -> dict[str, Any]:
    """Return the facts in AMD's assembly, including the metadata at its end."""
    accesses = list(_AMD_ACCESS.finditer(amdgcn))
    divisions = _count(r"\bv_div_fixup_f32", amdgcn)
    # divisions of 64-bit integers, also of one number for all threads; nothing else here is truncated
    whole = _count(r"\b[sv]_trunc_f32", amdgcn)
    lines = [line for line in amdgcn.splitlines() if not _NO_ADDITION.search(line)]
    fused = sum(len(_AMD_FUSED.findall(line)) + len(_AMD_FUSED_PAIR.findall(line)) for line in lines)
    return {
        "registers": _said(_VGPRS, amdgcn),
        "spilled": REGISTER * _said(_VGPRS_SPILLED, amdgcn),
        "scalars_spilled": _said(_SGPRS_SPILLED, amdgcn),
        "loads": _sizes(_amd_bytes(at) for at in accesses if at["kind"] == "load"),
        "stores": _sizes(_amd_bytes(at) for at in accesses if at["kind"] == "store"),
        "barriers": _count(r"\bs_barrier(?:_signal)?\b", amdgcn),
        "fused": fused - FUSED_IN_DIVISION * divisions - FUSED_IN_WHOLE_DIVISION * whole,
        "fp8": _count(r"\bv_cvt_\w*pk_fp8_f32", amdgcn),
        "divisions": divisions,
        "approximate": _count(r"\bv_(?:s_)?rcp_f32", amdgcn) - divisions - whole,
        "half_additions": _count(r"\bv_(?:pk_)?add_f16", amdgcn),
        "bytes": len(amdgcn),
    }


def _fused(ptx: str) -> int:
    """Return the number of products fused with an addition, without products by one: additions of bf16."""
    ones = set(_ONES.findall(ptx))
    found = [at for at in _FMA.finditer(ptx) if not ("bf16" in at["type"] and at["by"] in ones)]
    return sum(2 if at["type"].endswith("x2") else 1 for at in found)


def asked(llir: str) -> int:
    """Return the number of ``tl.fma`` that a kernel asks for; LLVM makes all other fused ones after this form."""
    return sum(int(lanes or 1) for lanes in re.findall(r"\bcall\b.* @llvm\.fma\.(?:v(\d+))?f32\(", llir))


def scattered(ttgir: str) -> int:
    """Return the number of reductions in Triton's GPU form over an axis in non-adjacent lanes or warps.

    Triton 3.6 exchanges as many lanes as the axis has, adjacent ones from the axis's first lane on.
    """
    layouts = dict(_LAYOUT.findall(ttgir))
    reductions = [(int(axis), _place(layout, layouts)) for axis, layout in _reduced(ttgir)]
    return sum(any(_apart(bits, axis) for bits in place) for axis, place in reductions)


def _reduced(ttgir: str) -> list[tuple[str, str]]:
    """Return the axis and the layout of every operand of a reduction."""
    found = [(axis, _OPERAND.findall(operands)) for axis, operands in _REDUCE.findall(ttgir)]
    there = ttgir.count('"tt.reduce"(')
    if there != sum(bool(layouts) for _, layouts in found):
        message = f"of {there} reductions not all are understood: {found}"
        raise ValueError(message)
    return [(axis, layout) for axis, layouts in found for layout in layouts]


def _place(layout: str, layouts: Mapping[str, str]) -> tuple[list[int | None], list[int | None]]:
    """Return the axis that each bit of a lane's number, and of a warp's, selects; None for a bit without one."""
    layout = layouts.get(layout, layout)
    if part := _SLICE.fullmatch(layout):
        gone, place = int(part[1]), _place(part[2], layouts)
        lanes, warps = ([_without(gone, axis) for axis in bits] for bits in place)
        return lanes, warps
    if layout.startswith("#ttg.linear<"):
        lanes, warps = (_bases(layout, name) for name in ("lane", "warp"))
        return lanes, warps
    # order has the axis of neighbours first
    order, *sizes = (json.loads(_named_list(layout, name)) for name in ("order", "threadsPerWarp", "warpsPerCTA"))
    lanes, warps = ([axis for axis in order for _ in range(size[axis].bit_length() - 1)] for size in sizes)
    return lanes, warps


def _bases(layout: str, name: str) -> list[int | None]:
    bases = json.loads(_named_list(layout, name))
    return [next((axis for axis, step in enumerate(base) if step), None) for base in bases]


def _named_list(layout: str, name: str) -> str:
    """Return a list of a layout, by its name. Raises ``ValueError`` where there is none."""
    found = re.search(rf"\b{name} = (\[(?:[^\[\]]|\[[^\[\]]*\])*\])", layout)
    if found is None:
        message = f"a layout without {name}: {layout!r}"
        raise ValueError(message)
    return found[1]


def _without(gone: int, axis: int | None) -> int | None:
    return None if axis is None or axis == gone else axis - (axis > gone)


def _apart(bits: Sequence[int | None], axis: int) -> bool:
    """Return whether bits of an axis have other bits between them."""
    at = [place for place, each in enumerate(bits) if each == axis]
    return bool(at) and at[-1] - at[0] >= len(at)


_LAYOUT = re.compile(r"^(#\w+) = (#ttg\.(?:blocked|linear)<.*>)$", re.MULTILINE)
_REDUCE = re.compile(r'"tt\.reduce"\(.*?<\{axis = (\d+) : i32\b.*?\n *\}\) : \((.*?)\) -> ', re.DOTALL)
_OPERAND = re.compile(r"tensor<[^,<>]*, (#\w+|#ttg\.\w+<.*?>+)>(?=, tensor<|$)")
_SLICE = re.compile(r"#ttg\.slice<\{dim = (\d+), parent = (.*)\}>")

REGISTER = 4  # bytes
# LLVM expands an exact division, and one of 64-bit integers, to a reciprocal and this number of fused products.
FUSED_IN_DIVISION, FUSED_IN_WHOLE_DIVISION = 5, 2
# includes scalar ones, on GPUs that compute values shared by all threads once
_AMD_FUSED = re.compile(r"\b[sv]_(?:dual_|pk_)?(?:fma|fmac|fmamk|fmaak|mad|mac)_(?:mix\w*_)?f(?:16|32)")
_AMD_FUSED_PAIR = re.compile(r"\bv_pk_fma_f(?:16|32)")
# the addend is zero: a product of fp16, or one rounded to fp16
_NO_ADDITION = re.compile(r"_mix\w* .*, (?:0|neg\(0\))(?: op_sel\S*)*$")

_FMA = re.compile(r"\bfma\.(?P<type>\S+)\s+[^,;]+, [^,;]+, (?P<by>[^,;]+), ")
# 1.0 of bf16, once or twice
_ONES = re.compile(r"\bmov\.b(?:16|32)\s+(%\w+), (?:0x3F80|1065369472);")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SPILLED = re.compile(r"(\d+) bytes spill stores")
_VGPRS = re.compile(r"\.vgpr_count:\s+(\d+)")
_VGPRS_SPILLED = re.compile(r"\.vgpr_spill_count:\s+(\d+)")
_SGPRS_SPILLED = re.compile(r"\.sgpr_spill_count:\s+(\d+)")

_PTX_ACCESS = re.compile(r"\b(?P<kind>ld|st)\.global(?P<suffix>\S*)")
# named ``ubyte``, ``short_d16``, ``dwordx4`` before gfx11, and from there on ``u8``, ``d16_b16``, ``b128``
_AMD_ACCESS = re.compile(
    r"\b(?:buffer|global|flat)_(?P<kind>load|store)_"
    r"(?:(?P<part>[us]?byte|[us]?short)|dword(?:x(?P<words>\d))?|(?:d16_(?:hi_)?)?[uib](?P<bits>\d+))"
)


def _count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text))


def _said(pattern: re.Pattern[str], text: str) -> int:
    """Return the number that a text gives once for its one kernel. Raises ``ValueError`` where it does not."""
    found = pattern.findall(text)
    if len(found) != 1:
        message = f"{pattern.pattern!r} stands {len(found)} times, must once, in {text[-2000:]!r}"
        raise ValueError(message)
    return int(found[0])


def _ptx_bytes(suffix: str) -> int:
    """Return the bytes of an access such as ``.L1::evict_first.v4.b32``."""
    vector = re.search(r"\.v(\d)\b", suffix)
    bits = re.search(r"\.[busf](\d+)$", suffix)
    if bits is None:
        message = f"an access of an unknown type: {suffix!r}"
        raise ValueError(message)
    return int(vector[1] if vector else 1) * int(bits[1]) // 8


def _amd_bytes(access: re.Match[str]) -> int:
    """Return the bytes of an access by the name of its instruction."""
    if access["bits"]:
        return int(access["bits"]) // 8
    if access["part"]:
        return 1 if access["part"].endswith("byte") else 2
    return REGISTER * int(access["words"] or 1)


def _sizes(sizes: Iterable[int]) -> dict[int, int]:
    counted = Counter(sizes)
    return {size: counted[size] for size in sorted(counted)}
