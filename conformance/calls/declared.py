"""Declarations of an adapter, as data: everything that a run needs of an implementation it does not import."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from conformance.adapter import Adapter, UsageError
from conformance.calls.claim import claim, known
from conformance.cases.factors import Taken
from conformance.operations import OPERATIONS, Operation, flags_of
from conformance.oracle.contract import Contract

# declared for all operations at once, or in a table of operations
PER_OPERATION = (
    "deterministic",
    "batch_invariant",
    "scale_invariant",
    "few_variants",
    "validates",
    "differentiable",
    "compiles",
    "graphs",
    "flushes",
    "running_variance",
    "fuses",
    "zero_columns",
    "strided_outputs",
    "strides",
    "specialises",
)
# ends of the names of an operation's other methods, and what they are given in addition
FORMS: Mapping[str, tuple[str, ...]] = {"_": (), "_out": ("out",)}
STRIDES = ("dense", "contiguous", "like_input")
SPECIALISES = ("rows", "eps")
# similarity of two names, from 0 to 1, from which on one counts as a misspelling: of an operation, and of another
# public name, of which short ones may be meant, such as compiled beside compiles
NEAR, NEARER = 0.85, 0.9


@dataclass(frozen=True, slots=True)
class Traits:
    """Declarations about one operation. ``forms``: the ends of the names of its other methods.

    ``claim`` are the calls that the implementation must take, None without a claim, ``launches`` those that must
    run in a kernel.
    """

    contract: Contract | None = None
    implemented: bool = True
    forms: tuple[str, ...] = ()
    deterministic: bool = True
    batch_invariant: bool = True
    scale_invariant: bool = True
    few_variants: bool = True
    validates: bool = False
    differentiable: bool = False
    compiles: bool = False
    graphs: bool = False
    flushes: bool = False
    running_variance: bool = False
    fuses: bool = False
    zero_columns: bool = False
    strided_outputs: bool = False
    strides: str = "dense"
    specialises: tuple[str, ...] = ()
    claim: Taken | None = None
    launches: Taken | None = None
    row_thresholds: tuple[int, ...] = ()
    column_thresholds: tuple[int, ...] = ()

    @classmethod
    def of(cls, adapter: Adapter, operation: str) -> Traits:
        """Return an adapter's declarations about an operation. Raises ``UsageError`` for a meaningless one."""
        given = {name: _declared(adapter, name, operation) for name in PER_OPERATION}
        implemented = hasattr(adapter, operation)
        return cls(
            contract=adapter.contract(operation) if operation in adapter.contracts else None,
            implemented=implemented,
            forms=tuple(form for form in FORMS if hasattr(adapter, f"{operation}{form}")),
            # an adapter need not know of operations that it does not have: some are from outside
            row_thresholds=tuple(adapter.row_thresholds(operation)) if implemented else (),
            column_thresholds=tuple(adapter.column_thresholds(operation)) if implemented else (),
            claim=_claim(adapter, "takes", operation),
            launches=_claim(adapter, "launches", operation),
            **given,
        )


@dataclass(frozen=True, slots=True)
class Declared:
    """Declarations of an adapter about itself and every operation. ``package``: distribution that it calls."""

    name: str
    reference: str | None = None
    operations: Mapping[str, Traits] = field(default_factory=dict)
    package: str = ""

    @classmethod
    def of(cls, adapter: Adapter) -> Declared:
        """Return an adapter's declarations. Raises ``UsageError`` for a meaningless contract."""
        traits = {name: Traits.of(adapter, name) for name in OPERATIONS}
        return cls(adapter.name, adapter.reference, traits, adapter.package)


def _claim(adapter: Adapter, name: str, operation: str) -> Taken | None:
    """Return the calls that a table of claims has for an operation, None where it has no entry."""
    table: Mapping[str, Mapping[str, object]] = getattr(adapter, name)
    if operation not in table:
        return None
    return claim(f"{type(adapter).__name__}: {name}[{operation!r}]", operation, table[operation])


def _declared(adapter: Adapter, name: str, operation: str) -> Any:  # noqa: ANN401 - flags of several types
    """Return one declaration: the table's entry if it is a table, the default if that has no entry."""
    value = getattr(adapter, name)
    return value.get(operation, getattr(Adapter, name)) if isinstance(value, Mapping) else value


def check(adapter: Adapter, operations: Iterable[str] = ()) -> None:
    """Refuse unknown names, operations without a contract, and methods that cannot be called.

    Only contracts and methods of ``operations`` are checked; all where none is given. Raises ``UsageError`` with
    one line that names the nearest known name, or the arguments that a method must take.
    """
    kind = type(adapter).__name__
    tables: dict[str, object] = {name: getattr(adapter, name) for name in ("takes", "launches", "contracts")}
    tables |= {trait: getattr(adapter, trait) for trait in PER_OPERATION}
    for trait, table in tables.items():
        for name in table if isinstance(table, Mapping) else ():
            known(f"{kind}: {trait}", name, OPERATIONS)
    _check_spelling(adapter)
    for name in tuple(operations) or OPERATIONS:
        if hasattr(adapter, name):
            points = [point.name for point in OPERATIONS[name].rounds]
            for point in _own_points(adapter.contracts.get(name)):
                known(f"{kind}: contracts[{name!r}]", point, points)
            adapter.contract(name)
            traits = Traits.of(adapter, name)
            known(f"{kind}: strides", traits.strides, STRIDES)
            for number in traits.specialises:
                known(f"{kind}: specialises", number, SPECIALISES)
        for form in ("", *FORMS):
            if hasattr(adapter, f"{name}{form}"):
                _check_signature(adapter, f"{name}{form}", OPERATIONS[name], FORMS.get(form, ()))


def _own_points(contract: str | Contract | None) -> list[str]:
    """Return the rounding points that a contract without a name gives itself."""
    return sorted(contract.rounds) if isinstance(contract, Contract) else []


def _check_spelling(adapter: Adapter) -> None:
    """Refuse a public name that almost matches a known one, and an adapter without any operation."""
    kind = type(adapter)
    for name in _public(kind):
        meant = _meant(name, method=callable(getattr(kind, name)))
        if meant:
            message = f"{kind.__name__}.{name}: is unknown, did you mean {meant!r}?"
            raise UsageError(message)
    if not any(hasattr(adapter, name) for name in OPERATIONS):
        message = f"{kind.__name__}: has no method named after an operation, must be among {', '.join(OPERATIONS)}"
        raise UsageError(message)


def _public(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


def _meant(name: str, *, method: bool) -> str:
    """Return the operation, method or declaration that a name of an adapter misspells; nothing for others."""
    forms = [f"{operation}{form}" for operation in OPERATIONS for form in ("", *FORMS)] if method else []
    own = [known for known in _public(Adapter) if method or not callable(getattr(Adapter, known))]
    if name in forms or name in own:
        return ""
    alike = [known for known in own if callable(getattr(Adapter, known)) is method]
    near = [
        *difflib.get_close_matches(name, forms, n=1, cutoff=NEAR),
        *difflib.get_close_matches(name, alike, n=1, cutoff=NEARER),
    ]
    return next(iter(near), "")


def _check_signature(adapter: Adapter, form: str, operation: Operation, more: tuple[str, ...]) -> None:
    """Refuse a method that does not take the arguments of its calls; a form takes some ``more`` by name."""
    try:
        signature = inspect.signature(getattr(adapter, form))
    except (TypeError, ValueError):  # a builtin, whose arguments are not known
        return
    named = (*operation.keywords, *flags_of(operation), *more)
    try:
        signature.bind(*operation.positional, **dict.fromkeys(named))
    except TypeError as error:
        called = ", ".join(["self", *operation.positional, "*", *named])
        message = f"{type(adapter).__name__}.{form}: {error}; must take ({called})"
        raise UsageError(message) from error
