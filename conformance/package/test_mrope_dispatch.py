"""MRoPE: every reason fires in both directions, what was decided is what runs, and what plans cost."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from conformance.package.calls.mrope import (
    assert_right,
    bits,
    call,
    explain,
    flat,
    positions,
    run,
    views_of_one_buffer,
)
from conformance.package.calls.tensors import DEVICE, Arguments, values
from normkernels import InvalidCall, Path, PathUnavailable, Reason, launch, plans
from normkernels.operations.operation import ENVIRONMENT, _cache, reread_environment
from normkernels.plans import INTERPRETED, MEASURED, Plan

OPERATIONS = ("mrope", "mrope_")
LOW, DOUBLE = torch.bfloat16, torch.float64
WIDEST = plans.MAX_HEAD_DIM


class Subclass(torch.Tensor):
    """A tensor that may mean something else."""


# The call that just does not qualify; the one beside it has no change.
MISSES: dict[str, tuple[Reason, Callable[[], Arguments]]] = {
    "float64": (Reason.DTYPE, lambda: call(dtype=DOUBLE)),
    "a wide head": (Reason.HEAD_DIM_LIMIT, lambda: call(2, (2, 1), WIDEST + 1)),
    "gradient of q": (Reason.NEEDS_GRAD, lambda: call(q=values("q", 5, 6, 64).requires_grad_())),
    "gradient of sin": (Reason.NEEDS_GRAD, lambda: call(sin=values("sin", 51, 16).requires_grad_())),
    "subclass of k": (Reason.SUBCLASS, lambda: call(k=values("k", 5, 2, 64).as_subclass(Subclass))),
    "subclass of positions": (Reason.SUBCLASS, lambda: call(positions=positions(5).as_subclass(Subclass))),
    "negated q": (Reason.SUBCLASS, lambda: call(q=torch._neg_view(values("q", 5, 6, 64)))),
    "forced": (Reason.FORCED, lambda: call(path="native")),
}
QUALIFIES: dict[Reason, Callable[[], Arguments]] = {
    Reason.HEAD_DIM_LIMIT: lambda: call(2, (2, 1), WIDEST),
    Reason.FORCED: lambda: call(path="heads"),
}


def test_every_reason_against_heads_stands_in_the_table() -> None:
    """A reason that no call fires is not one of the path's."""
    possible = {Reason.DTYPE, Reason.HEAD_DIM_LIMIT, Reason.NEEDS_GRAD, Reason.SUBCLASS, Reason.FORCED}

    assert possible == {reason for reason, _ in MISSES.values()}
    assert set(QUALIFIES) <= possible


@pytest.mark.parametrize("name", MISSES)
def test_a_reason_fires_alone(name: str, launched: list[plans.Plan]) -> None:
    """The call that just does not qualify is rejected for this reason only, and runs natively."""
    reason, misses = MISSES[name]
    arguments = misses()
    decision = explain(arguments)
    results = run(arguments)

    assert [reason] == [rejection.reason for rejection in decision.rejected]
    assert (Path.NATIVE, []) == (decision.path, launched)
    plain = arguments | {n: t.as_subclass(torch.Tensor) for n, t in arguments.items() if type(t) is Subclass}
    assert_right(plain, (results[0].as_subclass(torch.Tensor), results[1].as_subclass(torch.Tensor)))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", MISSES)
def test_a_reason_does_not_fire_on_the_call_beside(name: str, operation: str, launched: list[plans.Plan]) -> None:
    """The call that just qualifies is rejected for nothing, and runs the plan that is decided."""
    arguments = QUALIFIES.get(MISSES[name][0], call)()
    wanted = run(arguments)
    launched.clear()
    decision = explain(arguments, operation)
    results = run(arguments, operation)

    assert (Path.HEADS, ()) == (decision.path, decision.rejected)
    assert [decision.plan] == launched
    assert all(map(torch.equal, wanted, results))


def test_in_place_is_decided_as_the_other() -> None:
    """One operation: what sends it to native sends both."""
    for reason, misses in MISSES.values():
        if reason is not Reason.NEEDS_GRAD:
            assert [reason] == [rejection.reason for rejection in explain(misses(), "mrope_").rejected]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_environment_forces_both_forms(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``NORMKERNELS_PATH`` names the operation; a norm is not moved."""
    monkeypatch.setenv(ENVIRONMENT, "mrope=native")
    reread_environment()

    assert "native" == explain(call(), operation).name
    assert Path.HEADS is explain(call(path="heads"), operation).path


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_forced_path_that_cannot_run_raises_before_it_writes(operation: str) -> None:
    """A path that was asked for by name runs or raises."""
    arguments = call(dtype=DOUBLE, path="heads")
    before = arguments["q"].clone()

    with pytest.raises(PathUnavailable, match=r"mrope: path=heads cannot run Call(.|\n)*DTYPE"):
        run(arguments, operation)
    assert torch.equal(before, arguments["q"])


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("tokens", [1, 7, 8, 33])
def test_a_cached_call_agrees_with_decide(operation: str, tokens: int, launched: list[plans.Plan]) -> None:
    """A call whose key is cached from another batch runs the plan that ``decide`` gives it."""
    run(call(2))
    run(call(3, sections=[6, 5, 5]), "mrope_")
    arguments = call(tokens)
    wanted, decision = run(arguments), explain(arguments, operation)
    results = run(arguments, operation)

    # one in place, one not: the kernel stores another set of columns
    assert 2 == len(_cache)
    assert decision.plan == launched[-1]
    assert all(map(torch.equal, wanted, results))


def test_strides_of_positions_decide_which_memory_they_share() -> None:
    """Positions that begin at the same address are refused if they reach into q, and taken if they do not."""
    tokens, heads, head_dim = 5, 2, 64
    buffer = torch.zeros(tokens * heads * head_dim, dtype=torch.int64, device=DEVICE)
    q = buffer.view(torch.float32)[-tokens * heads * head_dim :].view(tokens, heads, head_dim)
    given = call(tokens, (heads, 1), head_dim, 32) | {"q": q, "positions": buffer[:tokens]}
    run(given, "mrope_")
    run(given, "mrope_")
    # rotated zeros may be negative, which are no positions
    buffer.zero_()

    with pytest.raises(InvalidCall, match="q shares memory with positions"):
        run(given | {"positions": buffer[:: buffer.numel() // tokens]}, "mrope_")


def test_a_cached_call_still_looks_at_memory() -> None:
    """The memory of q and k is no part of a key, and is checked in every call."""
    run(call(), "mrope_")
    q = values("q", 5, 6, 64)
    arguments = call(q=q, k=q[:, 1:3])
    before = bits(q).clone()

    with pytest.raises(InvalidCall, match="k shares memory with q"):
        run(arguments, "mrope_")
    assert torch.equal(before, bits(q))


def test_both_ranks_have_routes_of_their_own() -> None:
    """The same columns, as heads or not, and as heads of another width."""
    plain = flat(call())
    for arguments in (call(), plain, plain | {"head_dim": 32}, call(), plain):
        assert_right(arguments, run(arguments))

    assert 3 == len(_cache)


# How wide each access may be: what a layout promises the compiler, and what it must not.
ACCESSES: dict[str, tuple[str, Callable[[], Arguments]]] = {
    "contiguous": ("aligned", call),
    "views of one buffer": ("aligned", lambda: views_of_one_buffer(call())),
    "halves of one cache": (
        "aligned",
        lambda: call() | dict(zip(("cos", "sin"), values("cache", 51, 32).chunk(2, -1), strict=True)),
    ),
    "a half of no 16 bytes": (
        "unit",
        lambda: (
            call(5, (6, 2), 64, sections=(6, 4, 4))
            | {name: values(name, 51, 16)[:, :14] for name in ("cos", "sin")}
        ),
    ),
    "heads of no 16 bytes": ("unit", lambda: call(5, (6, 2), 66)),
    "k one element on": ("unit", lambda: call(k=values("k", 5 * 2 * 64 + 1)[1:].view(5, 2, 64))),
    "rows of sin of no 16 bytes": ("unit", lambda: call(sin=values("sin", 51, 17)[:, :16])),
    "columns of q apart": ("strided", lambda: call(q=values("q", 5, 6, 128)[..., ::2])),
    "columns of cos apart": ("strided", lambda: call(cos=values("cos", 51, 32)[:, ::2])),
}


@pytest.mark.parametrize("name", ACCESSES)
def test_a_layout_gets_the_accesses_that_it_allows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen bytes at a time only where every head, half and row of each tensor begins at a multiple of them."""
    wanted, make = ACCESSES[name]
    seen: list[str] = []

    def note(cached: launch.Launch, tensors: Any, *given: Any) -> None:
        names = cached.kernel.arg_names[len(tensors) :]
        seen.append(dict(zip(names, cached.rest, strict=True))["ACCESS"])
        start(cached, tensors, *given)

    start = launch.launch
    monkeypatch.setattr(launch, "launch", note)
    run(make(), "mrope_")

    assert [wanted] == seen


def heads(
    tokens: int, table: plans.PlanTable, q: int = 24, k: int = 4, head_dim: int = 256, *, copied: bool = False
) -> Plan:
    """Return the plan of a rotation of a quarter of each head."""
    return plans.heads(tokens, q, k, head_dim, head_dim // 8, table, copied=copied)


@pytest.mark.parametrize("table", [MEASURED, INTERPRETED], ids=["measured", "interpreted"])
def test_prefill_begins_at_its_threshold(table: plans.PlanTable) -> None:
    """One token less spreads its heads; far more have two tokens a program, unless the rest is copied."""
    first, pairs = plans.token_thresholds(table)
    below, above = (heads(tokens, table) for tokens in (first - 1, first))

    assert ("decode", "prefill") == (below.name, above.name)
    assert (4, 1) == (below.programs, above.programs)
    assert (8, 4) == tuple(heads(tokens, table).heads for tokens in (pairs - 1, pairs))
    spread, whole = (heads(tokens, table, copied=True) for tokens in (pairs - 1, pairs))
    assert (4, 1) == (spread.programs, whole.programs)
    assert spread.heads == whole.heads == 8


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize(("q", "k"), [(1, 1), (3, 1), (6, 1), (24, 4), (96, 8)])
@pytest.mark.parametrize("head_dim", [8, 64, 97, 128, 256, WIDEST])
def test_a_thread_of_a_wide_warp_has_as_much(q: int, k: int, head_dim: int, *, copied: bool) -> None:
    """As of a warp of 32, and no less than 16 bytes of a half; but of one token there may be too few heads."""
    wide = dataclasses.replace(MEASURED, warp=64)
    for tokens in (1, *plans.token_thresholds(MEASURED)):
        of_32, of_64 = (heads(tokens, table, q, k, head_dim, copied=copied) for table in (MEASURED, wide))
        had, has = (
            plan.rows * plan.heads * plans.power_of_two(head_dim // 8) / (plan.warps * warp)
            for plan, warp in ((of_32, 32), (of_64, 64))
        )
        every_head = of_64.heads == plans.power_of_two(max(q, k))
        assert has >= min(had, 8) or (of_64.rows == 1 and every_head)
        # nor more registers, for that or for what is copied; what fills a warp stays as it is
        assert has <= max(had, 8)
        if of_32.rows * of_32.heads * plans.power_of_two(head_dim // 8) >= 8 * 64:
            assert (of_32.rows, of_32.heads) == (of_64.rows, of_64.heads)
        assert of_64.rows * of_64.heads <= 2 * of_32.rows * of_32.heads


def test_a_wide_warp_has_more_heads_then_more_tokens() -> None:
    """Sixteen heads of 24; of six the eight that hold them, and of many tokens two instead of one."""
    wide = dataclasses.replace(MEASURED, warp=64)
    _, pairs = plans.token_thresholds(wide)

    assert (16, 1) == (heads(1, wide).heads, heads(1, wide).rows)
    assert 3 == heads(1, wide).programs
    assert (8, 2) == (heads(pairs, wide).heads, heads(pairs, wide).rows)
    assert (4, 4) == (heads(pairs, wide, 3, 1).heads, heads(pairs, wide, 3, 1).rows)
    assert (8, 1) == (heads(pairs, wide, 6, 1, copied=True).heads, heads(pairs, wide, 6, 1, copied=True).rows)


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize(("q", "k"), [(1, 1), (3, 1), (24, 4), (28, 4), (2, 64)])
@pytest.mark.parametrize("head_dim", [1, 64, 97, 128, 256, WIDEST])
def test_a_token_count_compiles_nothing_between_thresholds(q: int, k: int, head_dim: int, *, copied: bool) -> None:
    """A plan is the same for every token count between thresholds, and a program has its fill."""
    starts = [1, *plans.token_thresholds(MEASURED), 10**9]
    for start, end in itertools.pairwise(starts):
        between = (start, start + 1, (start + end) // 2, end - 1)
        (plan,) = {heads(tokens, MEASURED, q, k, head_dim, copied=copied) for tokens in between}
        assert plan.rows * plan.heads * head_dim <= 16384
        assert 1 <= plan.warps <= 16


@pytest.mark.parametrize("tokens", [1, 7, 8, 33, 100, 4096])
def test_the_interpreter_runs_few_programs(tokens: int) -> None:
    """No launch over up to 4,096 tokens takes more than 64 programs on the CPU."""
    plan = heads(tokens, INTERPRETED)

    assert -(-tokens // plan.rows) * plan.programs <= 64
