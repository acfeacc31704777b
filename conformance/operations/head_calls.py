"""Calls on heads of q and k, said by their tensors and settings: from these follow factors, cases and mistakes.

A row is a token: q, k and the positions have one, and the tables too where a call has no positions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from types import MappingProxyType
from typing import Any

from conformance.cases.case import Case, Flag, Layout, TensorSpec
from conformance.cases.corpus import ModelShape
from conformance.cases.factors import Assignment, Factors, Scope
from conformance.cases.shrink import plainer_flags, plainer_layouts, plainer_values, smaller
from conformance.operations import head_mistakes, readers
from conformance.operations.head_sizes import (
    DIMS,
    HEADS,
    MODEL_CACHE,
    Sized,
    Sizes,
    drawn,
    read_dims,
    read_heads,
    spec_of,
)
from conformance.operations.head_tensors import Heads, HeadTensor, HeadWeight, Positions, Table
from conformance.operations.operation import Formula, Operation
from conformance.operations.readers import Reader
from conformance.operations.rotation import ROTATED, outputs
from conformance.operations.row_calls import Setting
from conformance.operations.tensors import Mistake, other_dtype
from conformance.operations.term import Term
from conformance.oracle.contract import Point

RANKS = ("3", "2")
ROWS = ("few", "one", "many")

TABLES = ("cos", "sin")
OTHER_K = "other_k"
# the parameters in float32 by level of the factor `dtypes`; all others are in q's dtype, but k in another one
DTYPES: Mapping[str, tuple[str, ...]] = {"same": (), "cos_float32": TABLES, OTHER_K: TABLES}


@dataclass(frozen=True, slots=True)
class HeadCalls:
    """The calls of one operation.

    ``values`` are the profiles of the tensors but the positions, by level of the factor ``values``; ``dtypes`` the
    parameters in float32, by level of the factor ``dtypes``. The plainest level is the first one.
    """

    operation: str
    tensors: tuple[HeadTensor, ...]
    values: Mapping[str, tuple[str, ...]]
    settings: tuple[Setting, ...] = ()
    sized: tuple[Sized, ...] = ()
    dtypes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: DTYPES)

    @property
    def positions(self) -> Positions:
        """Return the positions among the tensors."""
        return next(tensor for tensor in self.tensors if isinstance(tensor, Positions))

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the other tensors, in the order of the profiles of their values."""
        return tuple(tensor.name for tensor in self.tensors if tensor is not self.positions)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Return the names of the tensors that a model loads once."""
        return tuple(tensor.name for tensor in self.tensors if isinstance(tensor, Table | HeadWeight))

    @property
    def factors(self) -> Factors:
        """Return the factors with their levels, by name."""
        layouts = {f"{tensor.name}_layout": tensor.layouts for tensor in self.tensors}
        sizes = {"dims": tuple(DIMS), "heads": tuple(HEADS), "rank": RANKS, "rows": ROWS}
        contents = {"dtypes": tuple(self.dtypes), "values": tuple(self.values), **self.positions.factors}
        of_settings = {setting.factor: tuple(setting.levels) for setting in self.settings if setting.levels}
        of_sizes = {setting.name: setting.levels for setting in self.sized}
        return dict(sorted({**layouts, **sizes, **contents, **of_settings, **of_sizes}.items()))

    @property
    def readers(self) -> Mapping[str, Reader]:
        """Return how the level of each factor is read from a case, but for ranks, rows and layouts."""
        settings = {each.factor: readers.flag(each.name, each.levels) for each in self.settings if each.levels}
        sized: dict[str, Reader] = {each.name: each.read for each in self.sized}
        values = {"dtypes": self._read_dtypes, "values": readers.values(self.names, self.values)}
        return {"dims": read_dims, "heads": read_heads, **values, **self.positions.readers, **settings, **sized}

    @property
    def mistakes(self) -> dict[str, Mistake]:
        """Return the ways in which a call can be wrong in one tensor."""
        found: dict[str, Mistake] = {}
        for tensor in self.tensors:
            found |= tensor.mistakes()
        return found

    def complete(self, assignment: Assignment, rng: random.Random, scope: Scope) -> Case:
        """Return a call with the assignment's levels; sizes, amounts and seed from ``rng``."""
        sizes = drawn(assignment, rng, scope)
        if assignment["positions"] == "none":
            sizes = replace(sizes, cache=sizes.tokens)
        profiles = dict(zip(self.names, self.values[assignment["values"]], strict=True))
        tensors: list[tuple[str, TensorSpec]] = []
        for tensor in self.tensors:
            place = tensor.place(assignment[f"{tensor.name}_layout"], sizes, rng)
            if isinstance(tensor, Positions):
                given = tensor.drawn(assignment, sizes, place)
                tensors += [] if given is None else [(tensor.name, given)]
                continue
            dtype = self._dtype(tensor.name, assignment["dtypes"], scope.dtype, rng)
            tensors.append((tensor.name, TensorSpec(tensor.shape(sizes), dtype, place, profiles[tensor.name])))
        flags: dict[str, Flag] = {"head_dim": sizes.head_dim if sizes.rank == 2 else None}
        for setting in self.settings:
            known = setting.levels
            flags[setting.name] = known[assignment[setting.factor]] if known else rng.choice(setting.drawn)
        flags |= {each.name: each.value(assignment[each.name], sizes.half) for each in self.sized}
        return Case(self.operation, tuple(tensors), tuple(flags.items()), rng.randrange(2**32))

    def _dtype(self, name: str, level: str, first: str, rng: random.Random) -> str:
        if name == "k" and level == OTHER_K:
            return other_dtype(first, rng)
        return "float32" if name in self.dtypes[level] else first

    def _read_dtypes(self, case: Case) -> str | None:
        if spec_of(case, "k").dtype != case.dtype:
            return OTHER_K
        others = {name for name in self.parameters if spec_of(case, name).dtype != case.dtype}
        return next((level for level, wide in self.dtypes.items() if set(wide) == others), None)

    def resized(self, case: Case, sizes: Sizes) -> Case:
        """Return the case in other sizes; settings that follow from them are plain if the frequencies change."""
        half, positions = spec_of(case, "cos").shape[1], case.tensor(self.positions.name)
        if positions is None:
            sizes = replace(sizes, cache=sizes.tokens)
        else:
            case = case.with_tensor(self.positions.name, self.positions.resized(positions, sizes))
        for tensor in self.tensors:
            if tensor is not self.positions:
                spec = replace(spec_of(case, tensor.name), shape=tensor.shape(sizes))
                case = case.with_tensor(tensor.name, spec)
        case = case.with_flag("head_dim", sizes.head_dim if sizes.rank == 2 else None)
        for each in self.sized if half != sizes.half else ():
            case = case.with_flag(each.name, each.value(each.levels[0], sizes.half))
        return case

    def empties(self, scope: Scope) -> tuple[Case, ...]:
        """Return calls without tokens or heads, with positions of every kind.

        The calls are in both ranks, contiguous and not.
        """
        plain = {name: levels[0] for name, levels in self.factors.items()}
        cases = []
        for rank, positions, missing, kind in product(
            RANKS,
            self.factors["positions"],
            ({"tokens": 0}, {"heads": 0, "k_heads": 0}),
            ("contiguous", "row_gap", "expanded"),
        ):
            levels = {**plain, "rank": rank, "positions": positions}
            base = self.complete(levels, random.Random(0), scope)  # noqa: S311
            case = self.resized(base, replace(Sizes.of(base), **missing))
            for name, spec in case.tensors:
                if name in {"q", "k", self.positions.name}:
                    case = case.with_tensor(name, replace(spec, layout=Layout(kind)))
            cases.append(case)
        return tuple(cases)

    def model_case(self, shape: ModelShape, tokens: int) -> Case:
        """Return the call of a real model: q and k are slices of one projection, cos and sin halves of a cache.

        Every rank has at least one head of k.
        """
        flags = {**self._plain_flags(), **dict(shape.flags)} | ({} if shape.eps is None else {"eps": shape.eps})
        k_heads, rotary_dim = flags.pop("k_heads"), flags.pop("rotary_dim")
        assert isinstance(k_heads, int)
        assert isinstance(rotary_dim, int)
        assert shape.heads is not None
        k_heads = max(1, k_heads // shape.tp)
        sizes = Sizes(tokens, shape.heads, k_heads, shape.head_dim, rotary_dim // 2, MODEL_CACHE, rank=2)
        profiles = dict(zip(self.names, next(iter(self.values.values())), strict=True))
        tensors = []
        for tensor in self.tensors:
            if isinstance(tensor, Positions):
                spec = tensor.of_a_model(sizes)
            else:
                profile = profiles[tensor.name]
                place = Layout()
                if isinstance(tensor, Heads):
                    profile, place = "rows", tensor.sliced(sizes)
                elif isinstance(tensor, Table):
                    place = tensor.halved()
                spec = TensorSpec(tensor.shape(sizes), shape.dtype, place, profile)
            tensors.append((tensor.name, spec))
        return Case(self.operation, tuple(tensors), (*flags.items(), ("head_dim", shape.head_dim)), tokens)

    def _plain_flags(self) -> dict[str, Any]:
        return {setting.name: setting.plain for setting in self.settings if setting.levels}

    def simpler(self, case: Case) -> Iterator[Case]:
        """Yield cases with plain layouts, flags and dtypes; smaller sizes; ordinary values."""
        yield from plainer_layouts(case)
        yield from plainer_flags(case, self._plain_flags())
        yield from self._plainer_dtypes(case)
        positions = case.tensor(self.positions.name)
        for other in self.positions.simpler(positions) if positions is not None else ():
            without = case.with_tensor(self.positions.name, other)
            yield without if other is not None else self.resized(without, Sizes.of(without))
        yield from (self.resized(case, sizes) for sizes in self._smaller(case))
        unlike = f"positions<{Sizes.of(case).cache}"
        ordinary = dict(zip(self.names, next(iter(self.values.values())), strict=True))
        order = {name: unlike if name == self.positions.name else ordinary[name] for name in self._all}
        yield from plainer_values(case, order)

    @property
    def _all(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self.tensors)

    def _plainer_dtypes(self, case: Case) -> Iterator[Case]:
        plain = dict.fromkeys(self._all, case.dtype) | {self.positions.name: "int64"}
        # cos and sin have the same dtype, which is k's as well unless it is float32
        for names in (("k", *self.parameters), ("k",), (self.positions.name,)):
            simple = case
            for name, spec in case.tensors:
                if name in names:
                    simple = simple.with_tensor(name, replace(spec, dtype=plain[name]))
            if simple != case:
                yield simple

    def _smaller(self, case: Case) -> Iterator[Sizes]:
        sizes, indexed = Sizes.of(case), case.tensor(self.positions.name) is not None
        for name in ("tokens", "heads", "k_heads", "half", *(("cache",) if indexed else ())):
            for fewer in smaller(getattr(sizes, name)):
                if name != "cache" or fewer >= self.positions.fewest:
                    yield replace(sizes, **{name: fewer})
        for narrower in smaller(sizes.head_dim):
            if narrower >= 2 * sizes.half:
                yield replace(sizes, head_dim=narrower)
        if sizes.rank == 3:
            yield replace(sizes, rank=2)


def head_operation(
    calls: HeadCalls,
    *,
    formula: Formula,
    rounds: tuple[Point, ...],
    points: Callable[[Case], tuple[str, ...]],
    ordinary: tuple[str, ...],
    terms: tuple[Term, ...],
    mistakes: Mapping[str, Mistake] = MappingProxyType({}),
    **rest: Any,  # noqa: ANN401 - other fields of an operation
) -> Operation:
    """Return the operation of some calls. ``rest`` are fields with a default, or in place of what follows here."""
    followed: dict[str, Any] = {
        "name": calls.operation,
        "positional": tuple(tensor.name for tensor in calls.tensors),
        "keywords": (),
        "row_tensors": frozenset({"q", "k", "positions"}),
        "token_axes": {"q": 0, "k": 0, "positions": -1, "cos": 0, "sin": 0},
        "factors": calls.factors,
        "readers": calls.readers,
        "complete": calls.complete,
        "outputs": outputs,
        "formula": formula,
        "rounds": rounds,
        "points": points,
        "invalid": {**calls.mistakes, **mistakes, **head_mistakes.UNSEEN},
        "unseen": frozenset(head_mistakes.UNSEEN),
        "ordinary": ordinary,
        # float32 tables leave the arithmetic in float32, even if the contract rounds products
        "telling": {"dtypes": ("same",), "dims": ("quarter", "whole", "part")},
        "terms": terms,
        "empties": calls.empties,
        "model_case": calls.model_case,
        "simpler": calls.simpler,
        "in_place": {output: name for name, output in ROTATED.items()},
        "parameters": calls.parameters,
    }
    return Operation(**{**followed, **rest})
