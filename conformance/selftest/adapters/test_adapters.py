"""The known adapters of third-party implementations are right, and declare those implementations' behaviour."""

from __future__ import annotations

import builtins
from itertools import product
from typing import Any

import pytest
import torch
from torch._dynamo import config as dynamo
from torch._inductor import config as inductor

from conformance.adapter import UsageError, load, split
from conformance.adapters.native import Native
from conformance.calls.call import Subject
from conformance.calls.claim import outside
from conformance.calls.declared import check
from conformance.calls.verdict import BAD, Status
from conformance.cases.case import Case, Flag, TensorSpec
from conformance.cases.factors import DTYPES, Scope, Taken, enumerated_cases
from conformance.operations import OPERATIONS
from conformance.oracle.contract import Contract
from conformance.properties.discovery import called, explaining, sets_of
from conformance.properties.passive import judge_call
from conformance.runs.item import PROFILES, items
from conformance.runs.judge import judge_item

FLAGS: dict[str, tuple[tuple[str, Flag], ...]] = {
    "rms_norm": (("weight_offset", 0.0),),
    "gemma_rms_norm": (),
    "rms_norm_gated": (("activation", "silu"), ("group_size", None), ("norm_before_gate", True)),
}
COMPANION = {"rms_norm": "residual", "gemma_rms_norm": "residual", "rms_norm_gated": "gate"}
OPERATIONS_OF_OTHERS = (*FLAGS, "mrope")
CLAIMED = (
    *product(("torch", "transformers"), (*OPERATIONS_OF_OTHERS, "layer_norm", "l2_norm", "silu_and_mul")),
    ("transformers", "gelu_and_mul"),
    ("transformers", "rope"),
    ("transformers", "qk_norm_rope"),
    *product(("torch", "transformers"), ("softmax",)),
)


def _cases(name: str, dtype: str, claim: Taken) -> list[Case]:
    """Return the covering array of the quick profile, over what is claimed."""
    operation, scope = OPERATIONS[name], Scope(dtype, taken=claim)
    strength = PROFILES["quick"].strength
    return list(enumerated_cases(operation.factors, operation.complete, scope, strength=strength, seed=1))


def _telling(name: str, dtype: str) -> Case:
    """Return ordinary rows of real size, on which contracts differ in thousands of elements."""
    if name == "mrope":
        return _rotation(dtype)
    shape, companion = (32, 128), COMPANION[name]
    tensors = (
        ("x", TensorSpec(shape, dtype)),
        (companion, TensorSpec(shape, dtype, values="gate" if companion == "gate" else "normal")),
        ("weight", TensorSpec(shape[-1:], dtype, values="weight")),
    )
    return Case(name, tensors, (("eps", 1e-6), *FLAGS[name]))


def _rotation(dtype: str) -> Case:
    """Return a rotation with angles in float32, which show where they are rounded."""
    angles = {
        "cos": TensorSpec((64, 64), "float32", values="cos"),
        "sin": TensorSpec((64, 64), "float32", values="sin"),
    }
    tensors = (
        ("q", TensorSpec((32, 4, 128), dtype)),
        ("k", TensorSpec((32, 2, 128), dtype)),
        ("positions", TensorSpec((3, 32), "int64", values="positions<64")),
    )
    flags: tuple[tuple[str, Flag], ...] = (("head_dim", None), ("interleaved", True), ("sections", (24, 20, 20)))
    return Case("mrope", (*tensors, *angles.items()), flags)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("target", "name"), CLAIMED)
def test_nothing_that_a_known_implementation_does_fails(target: str, name: str, dtype: str) -> None:
    """Every claimed call is right, or declined for a stated reason, and some calls are right."""
    subject = Subject(load(target))
    claim = subject.traits(name).claim
    assert claim is not None
    claimed = [case for case in _cases(name, dtype, claim) if not outside(claim, case)]
    verdicts = [verdict for case in claimed for verdict in judge_call(subject, case)]

    assert [] == [str(verdict) for verdict in verdicts if verdict.status in BAD]
    assert [] == [v for v in verdicts if v.status is Status.DECLINED and not v.reason]
    assert any(v.status is Status.PASSED and v.comparison.elements for v in verdicts)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", OPERATIONS_OF_OTHERS)
@pytest.mark.parametrize("target", ["torch", "transformers"])
def test_the_declared_contract_is_the_one_that_discovery_finds(target: str, name: str, dtype: str) -> None:
    """The smallest set of rounding points that explains every element is the declared one; it is not empty."""
    subject, case = Subject(load(target)), _telling(name, dtype)
    points, declared = OPERATIONS[name].points(case), subject.contract(name)
    calls = list(called(subject, [case]))
    sets = [Contract(rounds, declared.depth) for rounds in sets_of(points)]
    found = explaining(subject, sets, calls)
    (plain,) = explaining(subject, sets[:1], calls)

    assert (declared.rounds & set(points), 1.0) == (found[0].contract.rounds, found[0].share)
    assert 0.9 > plain.share


def test_the_formula_that_torch_compile_is_given_takes_empty_tensors() -> None:
    """The adapter's own formula runs on every empty call, so that no failure of it is put down to the compiler."""
    # what the adapter sets for its process is set back
    limits = {"recompile_limit": dynamo.recompile_limit}
    limits["accumulated_recompile_limit"] = dynamo.accumulated_recompile_limit
    kept = dynamo.patch(limits), inductor.patch({"compile_threads": inductor.compile_threads})
    with kept[0], kept[1], torch.compiler.set_stance("force_eager"):
        subject = Subject(load("compile"))
        chosen = items(subject, operations=tuple(FLAGS), properties=("empty",))
        found = [verdict for item in chosen for verdict in judge_item(item, subject)]

    assert {Status.PASSED} == {verdict.status for verdict in found}
    assert {"gemma_rms_norm", "rms_norm", "rms_norm_gated"} == {verdict.case.operation for verdict in found}


def test_without_transformers_the_adapter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for a missing implementation is bad usage, with one line of help."""
    there = builtins.__import__

    def missing(name: str, *args: Any) -> Any:
        if name.startswith("transformers"):
            raise ImportError(name)
        return there(name, *args)

    monkeypatch.setattr(builtins, "__import__", missing)

    with pytest.raises(UsageError, match="pip install transformers"):
        load("transformers")


@pytest.mark.parametrize(
    ("target", "place", "wanted"),
    [
        ("adapter.py", "adapter.py", ""),
        ("adapter.py:Mine", "adapter.py", "Mine"),
        ("a:b/adapter.py", "a:b/adapter.py", ""),
        ("a:b/adapter.py:Mine", "a:b/adapter.py", "Mine"),
        ("package.module:Mine", "package.module", "Mine"),
        ("package.module", "package.module", ""),
    ],
)
def test_a_folder_may_have_colons(target: str, place: str, wanted: str) -> None:
    """The class follows the last colon after a file name, or the only colon."""
    assert (place, wanted) == split(target)


def test_only_what_is_asked_for_needs_a_contract() -> None:
    """An inherited method that is not judged needs no contract."""
    adapter = Native()
    adapter.contracts = {"rms_norm": "fp32"}  # type: ignore[misc]  # of this one
    check(adapter, ["rms_norm"])

    with pytest.raises(UsageError, match="contracts has no entry for 'gemma_rms_norm'"):
        check(adapter)
