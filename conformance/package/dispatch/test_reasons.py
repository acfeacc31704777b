"""Every reason fires in both directions, one condition at a time, and what was decided is what runs."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from conformance.package.calls.operations import FAMILIES, assert_right, explain, run
from conformance.package.calls.tensors import Arguments
from conformance.package.dispatch.pairs import PAIRS, TABLES
from conformance.selftest.every import every
from conformance.selftest.processes import ran_alone
from normkernels import Decision, Path, Reason, plans
from normkernels.operations.operation import ENVIRONMENT, reread_environment
from normkernels.operations.operation import OPERATIONS as KNOWN

# Reasons against the plans for contiguous gated rows of 128 columns; other plans take such calls.
AGAINST_A_PLAN = {
    Reason.NO_GATE,
    Reason.GROUPED,
    Reason.GATE_FIRST,
    Reason.WIDTH,
    Reason.X_NOT_CONTIGUOUS,
    Reason.GATE_NOT_CONTIGUOUS,
    Reason.OUT_NOT_CONTIGUOUS,
}
# Reasons that a machine gives. fp8 types that a GPU lacks are decided on its description in test_decisions.
MACHINE = {Reason.NO_TRITON, Reason.NO_GPU, Reason.FP8_DTYPE}
OF_NORMS = set(Reason) - MACHINE - AGAINST_A_PLAN - {Reason.HEAD_DIM_LIMIT, Reason.QUANT_GROUP}
# A gradient is refused with fp8 values.
OF_FP8 = OF_NORMS - {Reason.NEEDS_GRAD}
POSSIBLE = {
    "rms_norm": OF_NORMS,
    "gemma_rms_norm": OF_NORMS,
    "rms_norm_gated": OF_NORMS | AGAINST_A_PLAN,
    "rms_norm_fp8": OF_FP8,
    "rms_norm_gated_fp8": OF_FP8 | {Reason.QUANT_GROUP},
    "mrope": OF_NORMS - {Reason.LEADING_STRIDES, Reason.TOO_WIDE} | {Reason.HEAD_DIM_LIMIT},
}


def reasons(decision: Decision) -> list[Reason]:
    """Return the reasons of a decision, each once, in order."""
    return list(dict.fromkeys(rejection.reason for rejection in decision.rejected))


def test_every_reason_stands_in_a_table() -> None:
    """A reason that no call and no environment can fire does not exist; those of a machine are tested apart."""
    assert set(FAMILIES) == set(TABLES)
    for operation, pairs in TABLES.items():
        assert POSSIBLE[operation] == {pair.reason for pair in pairs.values()}
    assert MACHINE - {Reason.FP8_DTYPE} | {Reason.FORCED} == set(ENVIRONMENTS)
    assert set(Reason) == MACHINE.union(*POSSIBLE.values())


def judged(operation: str, arguments: Arguments, launched: list[plans.Plan]) -> Decision:
    """Return the decision on a call that is not cached; it is what runs, and the results are right."""
    reread_environment()
    launched.clear()
    decision = explain(operation, arguments)
    results = run(operation, arguments)

    assert ([decision.plan] if decision.plan else []) == launched
    assert_right(operation, arguments, results)
    return decision


@every(("operation", "name"), PAIRS)
def test_a_reason_fires_alone(operation: str, name: str, launched: list[plans.Plan]) -> None:
    """The call that just does not qualify is rejected for this reason only, and runs where it says."""
    pair = PAIRS[operation, name]
    beside = reasons(explain(operation, pair.qualifies()))
    decision = judged(operation, pair.misses(), launched)

    assert [pair.reason] == [reason for reason in reasons(decision) if reason not in beside]
    assert (pair.reason in AGAINST_A_PLAN) == (decision.path is not Path.NATIVE)


@every(("operation", "name"), PAIRS)
def test_a_reason_does_not_fire_on_the_call_beside(operation: str, name: str, launched: list[plans.Plan]) -> None:
    """The call that just qualifies is not rejected for this reason, and runs on Triton."""
    pair = PAIRS[operation, name]
    decision = judged(operation, pair.qualifies(), launched)

    assert pair.reason not in reasons(decision)
    assert KNOWN[operation].path is decision.path
    # without plans for some rows alone, a call that qualifies has nothing against it
    assert operation == "rms_norm_gated" or () == decision.rejected
    assert operation in {"rms_norm_gated", "mrope"} or "rows/general" == decision.name


@every("name", TABLES["mrope"])
def test_in_place_is_decided_as_the_other_form(name: str, launched: list[plans.Plan]) -> None:
    """One operation: the same reasons, the same plan, and the same bits."""
    pair = TABLES["mrope"][name]
    arguments = pair.qualifies()
    wanted = run("mrope", arguments)
    launched.clear()
    decision = explain("mrope_", arguments)
    results = run("mrope_", arguments)

    assert (Path.HEADS, ()) == (decision.path, decision.rejected)
    assert [decision.plan] == launched
    assert all(map(torch.equal, wanted, results))
    # a gradient through what is written is refused
    if pair.reason is not Reason.NEEDS_GRAD:
        assert [pair.reason] == reasons(explain("mrope_", pair.misses()))


# Environments that just do not qualify: variables of a process, and the path that is forced in it.
RUNS = {"TRITON_INTERPRET": "1"}
ENVIRONMENTS: dict[Reason, tuple[dict[str, str], str]] = {
    Reason.NO_TRITON: (RUNS | {"WITHOUT": "triton"}, ""),
    Reason.NO_GPU: ({}, ""),
    Reason.FORCED: (RUNS, "native"),
}

SCRIPT = f"""
import json, os, sys
if "WITHOUT" in os.environ:
    sys.modules[os.environ["WITHOUT"]] = None
import torch, normkernels
from normkernels.operations.operation import reread_environment
if "TRITON_INTERPRET" in os.environ and "WITHOUT" not in os.environ:
    # as shipped, Triton 3.6 takes no loop's bounds with NumPy 2.4 on
    from conformance import interpreter
    interpreter.install()
x = torch.linspace(-2, 2, 256).reshape(2, 128)
found = {{}}
for forced in ("", "native"):
    os.environ["{ENVIRONMENT}"] = forced
    reread_environment()
    found[forced] = {{}}
    for operation in sys.argv[1:]:
        given = (x, x, x[0]) if "gated" in operation else (x, x[0])
        flags = {{"eps": 1e-6}} | ({{"fp8_dtype": torch.float8_e4m3fn}} if "fp8" in operation else {{}})
        if operation == "mrope":
            given = x[:, None], x[:, None], torch.arange(2), x[:, :64], x[:, 64:]
            flags = {{"sections": (24, 20, 20)}}
        decision = normkernels.explain(operation, *given, **flags)
        y = getattr(normkernels, operation)(*given, **flags)
        native = getattr(normkernels, operation)(*given, **flags, path="native")
        if "fp8" in operation:
            # scales: a unit in the last place of y may be a step of fp8
            y, native = y[1], native[1]
        if operation == "mrope":
            y, native = y[0], native[0]
        agrees = bool(((y - native).abs() < 1e-6).all())
        found[forced][operation] = [decision.name, [str(r) for r in decision.rejected], agrees]
print(json.dumps(found))
"""


@functools.cache
def in_environment(*variables: tuple[str, str]) -> dict[str, dict[str, tuple[str, list[str], bool]]]:
    """Return decisions, rejections and agreement with native by forced path and operation, from one process."""
    done = ran_alone(SCRIPT, *FAMILIES, CUDA_VISIBLE_DEVICES="", **dict(variables))
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        forced: {operation: (name, rejected, agrees) for operation, (name, rejected, agrees) in each.items()}
        for forced, each in found.items()
    }


@every("reason", [pytest.param(reason, id=reason.name) for reason in ENVIRONMENTS])
def test_an_environment_fires_a_reason(reason: Reason) -> None:
    """In the environment that just does not qualify, each operation runs natively and says why; beside it, not."""
    variables, forced = ENVIRONMENTS[reason]
    qualifies, misses = in_environment(*RUNS.items())[""], in_environment(*variables.items())[forced]
    named = {"rms_norm_gated": "rows/decode128", "mrope": "heads/decode"}

    assert {each: (named.get(each, "rows/general"), [], True) for each in FAMILIES} == qualifies
    assert dict.fromkeys(FAMILIES, ("native", True)) == {
        each: (name, agrees) for each, (name, _, agrees) in misses.items()
    }
    assert set(FAMILIES) == {
        each for each, (_, rejected, _) in misses.items() if any(f": {reason.name}: " in line for line in rejected)
    }
    # what is needed, then what was given
    if reason is Reason.NO_GPU:
        assert ["rows: NO_GPU: needs a GPU, got 'cpu'"] == misses["rms_norm_gated"][1]
