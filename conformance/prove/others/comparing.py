"""Calls and comparisons of the models. Pure: from a part of a suite to cases and values, and to what is wrong."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import product

import torch

from conformance.cases.case import Case, Layout, TensorSpec
from conformance.cases.factors import DTYPES, Scope
from conformance.cases.values import draw
from conformance.operations import OPERATIONS
from conformance.prove.others.suites import Part, Rule

Tensors = tuple[torch.Tensor, ...]

DRAWS = 4  # calls on heads of each kind
GAP = 64  # elements between rows, where rows have gaps
BASE = 10000.0  # of the angles of a rotation
TABLES = ("cos", "sin")
PARAMETERS = ("weight", "bias", "q_weight", "k_weight")
OUTPUTS, VALUES = "outputs", "values"  # what is wrong: number, shape or dtype of outputs, or their numbers


def cases(part: Part, operation: str) -> Iterator[Case]:
    """Yield the calls that a part makes of an operation, each once."""
    made = OPERATIONS[operation]
    plain = {name: levels[0] for name, levels in made.factors.items()}
    dtypes = [name for name in DTYPES if name in part.limits]
    seen = set()
    for dtype, absent, layout in product(dtypes, part.without, part.layouts):
        for number in range(DRAWS if "q" in made.positional else len(part.shapes)):
            rng = random.Random(number)  # noqa: S311 - reproducible, not secret
            case = made.complete(plain, rng, Scope(dtype))
            if "q" not in made.positional:
                case = _resized(case, part.shapes[number], layout)
            for name in absent:
                case = case.with_tensor(name, None)
            if "eps" in dict(case.flags):
                case = case.with_flag("eps", part.eps)
            if case not in seen:
                seen.add(case)
                yield case


def _resized(case: Case, shape: tuple[int, int], layout: str) -> Case:
    """Return a call on rows in another shape; all tensors of that shape have the layout."""
    first = case.tensors[0][1].shape
    for name, spec in case.tensors:
        place = Layout(layout, 0 if layout == "contiguous" else GAP)
        rows = replace(spec, shape=shape, layout=place)
        case = case.with_tensor(name, rows if spec.shape == first else replace(spec, shape=shape[1:]))
    return case


def values(part: Part, case: Case) -> dict[str, torch.Tensor]:
    """Return the numbers of every tensor of a call, which follow from the part and the call alone."""
    return {name: _drawn(part, case, name, spec) for name, spec in case.tensors}


def _drawn(part: Part, case: Case, name: str, spec: TensorSpec) -> torch.Tensor:
    seed = hashlib.sha256(f"{case.id}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:7]))
    dtype = getattr(torch, spec.dtype)
    if "int" in spec.dtype:
        if part.positions == "arange":
            table = case.tensor("cos")
            assert table is not None, "positions are of a table"
            # from the start again where a call has more tokens than its table
            places = torch.arange(spec.shape[-1]) % table.shape[0]
            return places.to(dtype).expand(spec.shape).contiguous()
        return draw(spec.values, spec.shape, dtype, generator)
    if name in TABLES:
        count, half = spec.shape
        angles = torch.arange(count)[:, None] * BASE ** -(torch.arange(half) / half)
        return (angles.cos() if name == "cos" else angles.sin()).to(dtype)
    kind = part.weights if name in PARAMETERS else part.values
    return KINDS[kind](spec.shape, generator).to(dtype)


def _scaled(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator) / (2 * shape[-1])


KINDS: Mapping[str, Callable[[tuple[int, ...], torch.Generator], torch.Tensor]] = {
    "randn": lambda shape, generator: torch.randn(shape, generator=generator),
    "ones": lambda shape, _: torch.ones(shape),
    "uniform": lambda shape, generator: 4.0 * torch.rand(shape, generator=generator) - 2.0,
    "scaled": _scaled,
}


def in_float32(case: Case, given: Mapping[str, torch.Tensor]) -> tuple[Case, dict[str, torch.Tensor]]:
    """Return a call with every float in float32, and its values."""
    for name, spec in case.tensors:
        if "float" in spec.dtype:
            case = case.with_tensor(name, replace(spec, dtype="float32"))
    return case, {name: value.float() if value.is_floating_point() else value for name, value in given.items()}


def wrong(part: Part, case: Case, got: Tensors, want: Tensors, low: Tensors, *, checks_dtype: bool) -> str:
    """Return what is wrong with results by the rule of a part, in a word, or nothing.

    ``want`` are the outputs of the reference, ``low`` those of PyTorch in the dtype of the call.
    """
    if len(got) != len(want) or any(a.shape != b.shape for a, b in zip(got, want, strict=True)):
        return OUTPUTS
    outputs = OPERATIONS[case.operation].outputs(case)
    if checks_dtype and any(a.dtype != b.dtype for a, b in zip(got, outputs, strict=True)):
        return OUTPUTS
    for output, result, reference, other in zip(outputs, got, want, low or want, strict=True):
        name = str(output.dtype).removeprefix("torch.")
        limit = part.limits.get(name, part.limits[case.dtype])
        if not _passes(part.rule, limit, result.double(), reference.double(), other.double()):
            return VALUES
    return ""


def _passes(
    rule: Rule, limit: tuple[float, float], got: torch.Tensor, want: torch.Tensor, low: torch.Tensor
) -> bool:
    """Return whether one output passes. Every comparison fails where a NaN takes part."""
    atol, rtol = limit
    if rule is Rule.CLOSE or not want.numel():
        return bool(torch.isclose(got, want, atol=atol, rtol=rtol, equal_nan=True).all())
    largest = float((got - want).abs().max())
    if rule is Rule.TWICE:
        return largest <= 2.0 * float((low - want).abs().max()) + atol
    within = float((got - want).square().mean().sqrt()) <= rtol * float(want.square().mean().sqrt())
    return within or (rule is Rule.WARNS and largest <= atol)
