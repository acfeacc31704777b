"""The suite's oracle for the package's own tests: the same judgement as for every implementation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from conformance.adapters.normkernels import NormKernels
from conformance.calls.call import Subject
from conformance.cases.case import Case, TensorSpec
from conformance.oracle.comparison import Comparison
from conformance.oracle.contract import NAMED, Contract
from conformance.properties.measure import measure

# flags of a call that does not give them
DEFAULTS: dict[str, dict[str, Any]] = {
    "rms_norm_gated": {"group_size": None, "norm_before_gate": True, "activation": "silu"},
    "rms_norm": {"weight_offset": 0.0},
    "gemma_rms_norm": {},
}
TENSORS = ("x", "gate", "residual", "weight")


def contract_of(operation: str, arguments: Mapping[str, Any]) -> Contract:
    """Return the contract of a call: the sum is rounded; ``hf`` rounds more only if no offset is added."""
    rounds = NAMED[arguments.get("rounding", "fp32")]
    if operation == "gemma_rms_norm" or arguments.get("weight_offset"):
        rounds = NAMED["fp32"]
    return Contract(rounds | {"sum"} if operation != "rms_norm_gated" else rounds, "tile")


def by_the_oracle(
    operation: str, arguments: Mapping[str, Any], results: tuple[torch.Tensor, ...], device: str
) -> Comparison:
    """Compare the results of a call with the values that the contract allows."""
    given = {name: arguments[name] for name in TENSORS if arguments.get(name) is not None}
    tensors = tuple(
        (name, TensorSpec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")))
        for name, tensor in given.items()
    )
    flags = dict(DEFAULTS[operation])
    flags |= {name: value for name, value in arguments.items() if name in {*flags, "eps"}}
    case = Case(operation, tensors, tuple(flags.items()))
    # plain tensors of any kind of argument: subclasses, parameters, tensors that need a gradient
    values = {name: _plain(tensor).contiguous() for name, tensor in given.items()}
    outputs = tuple(map(_plain, results))
    return measure(Subject(NormKernels(), device), contract_of(operation, arguments), case, values, outputs)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().as_subclass(torch.Tensor)
