"""Rows of a call: the parts that are computed alone, such as a vector of a norm or a token of a rotation.

In most operations all dimensions but the last count rows. Where a single dimension does
(``Operation.token_axes``), a row is all elements at one index of it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from conformance.cases.case import Case
from conformance.operations import OPERATIONS


def row_tensors(case: Case) -> frozenset[str]:
    """Return the arguments that have one row per row of the output; tables do where nothing indexes them."""
    operation = OPERATIONS[case.operation]
    unindexed = (table for table, index in operation.indexed.items() if case.tensor(index) is None)
    return operation.row_tensors.union(unindexed)


def count(case: Case) -> int:
    """Return the number of rows of a call."""
    axes = OPERATIONS[case.operation].token_axes
    name, spec = case.tensors[0]
    return spec.shape[axes[name]] if axes else case.rows


def by_row(case: Case, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return an argument of at least one row as ``(rows, elements of one)``; a view where it is contiguous."""
    axes = OPERATIONS[case.operation].token_axes
    first = tensor.movedim(axes[name], 0) if axes else tensor
    return first.reshape(count(case), -1)


def flat(case: Case) -> Case:
    """Return the case with one dimension that counts its rows: the other leading dimensions have one element."""
    rows = count(case)
    if not OPERATIONS[case.operation].token_axes:
        for name, spec in case.tensors:
            if name in row_tensors(case):
                others = (1,) * (len(spec.shape) - 2)
                case = case.with_tensor(name, replace(spec, shape=(rows, *others, spec.shape[-1])))
    return case


def axis(case: Case, name: str) -> int:
    """Return the dimension that counts the rows of an argument of a :func:`flat` case."""
    return OPERATIONS[case.operation].token_axes.get(name, 0)


def with_rows(case: Case, rows: int) -> Case:
    """Return a :func:`flat` case with ``rows`` rows."""
    for name, spec in case.tensors:
        if name in row_tensors(case):
            shape = list(spec.shape)
            shape[axis(case, name)] = rows
            case = case.with_tensor(name, replace(spec, shape=tuple(shape)))
    return case
