"""A decision that is cached serves every call that it fits, and no other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

import normkernels
from conformance.package.calls import fp8, mrope, rms_norm, rms_norm_gated
from conformance.package.calls.mrope import bits, flat
from conformance.package.calls.operations import assert_right, explain, run
from conformance.package.calls.tensors import DEVICE, Arguments, values
from conformance.selftest.every import every
from normkernels import InvalidCall, launch, plans
from normkernels.operations.operation import OPERATIONS, _cache, reread_environment

NORM, GATED = fp8.OPERATIONS
MANY = 600 if DEVICE == "cpu" else 4096  # rows past every threshold of plans
Make = Callable[[int], Arguments]  # from a number of rows
GATES: dict[str, Arguments] = {
    "a gate": {},
    "no gate": {"gate": None},
    "groups": {"group_size": 32},
    "gate first": {"norm_before_gate": False},
}


def of_columns(call: Callable[..., Arguments], columns: int, **changes: object) -> Make:
    """Return a function that makes a call of any number of rows."""
    return lambda rows: call(rows, columns, **changes)


# Calls of any number of rows, and the numbers that are tried after a call of two.
CALLS: dict[tuple[str, str], tuple[Make, tuple[int, ...]]] = {
    **{
        ("rms_norm_gated", f"{name}, {columns}"): (
            of_columns(rms_norm_gated.call, columns, **changes),
            (1, 7, 8, 31, 32, 33, MANY),
        )
        for name, changes in GATES.items()
        for columns in (64, 128)
    },
    **{
        (operation, make.__name__): (of_columns(make, 96), (1, 7, 8, 33))
        for operation in rms_norm.OPERATIONS
        for make in (rms_norm.added, rms_norm.call)
    },
    **{
        (operation, f"groups of {group}"): (
            of_columns(partial(fp8.call, operation), 96, quant_group=group),
            (1, 7, 8, 33),
        )
        for operation in fp8.OPERATIONS
        for group in (None, 32, 40, 128)
    },
    **{
        (GATED, f"groups of {group} in {width}"): (
            of_columns(partial(fp8.call, GATED), 96, quant_group=group, group_size=width),
            (2, 9),
        )
        for width in (24, 48, 96)
        for group in (None, 24, 48)
    },
}


@every(("operation", "name"), CALLS)
def test_a_cached_call_agrees_with_decide(operation: str, name: str, launched: list[plans.Plan]) -> None:
    """A call whose key is cached from another batch runs the plan that ``decide`` gives it."""
    make, counts = CALLS[operation, name]
    for rows in counts:
        reread_environment()
        run(operation, make(2))
        arguments = make(rows)
        results = run(operation, arguments)

        assert 1 == len(_cache)
        assert explain(operation, arguments).plan == launched[-1]
        assert_right(operation, arguments, results)


@pytest.mark.parametrize("operation", ["mrope", "mrope_"])
@pytest.mark.parametrize("tokens", [1, 7, 8, 33])
def test_a_cached_rotation_agrees_with_decide(operation: str, tokens: int, launched: list[plans.Plan]) -> None:
    """Sections are the same as a list or a tuple; both forms have the same bits."""
    run("mrope", mrope.call(2))
    run("mrope_", mrope.call(3, sections=[6, 5, 5]))
    arguments = mrope.call(tokens)
    wanted, decision = run("mrope", arguments), explain(operation, arguments)
    results = run(operation, arguments)

    # one in place, one not: the kernel stores another set of columns
    assert 2 == len(_cache)
    assert decision.plan == launched[-1]
    assert all(map(torch.equal, wanted, results))


def test_a_key_of_one_operation_serves_no_other() -> None:
    """The same arguments have separate keys in each operation."""
    arguments = rms_norm.added()
    for operation in (*rms_norm.OPERATIONS, *rms_norm.OPERATIONS):
        assert_right(operation, arguments, run(operation, arguments))
    with pytest.raises(InvalidCall, match="weight is a NoneType"):
        run("gemma_rms_norm", rms_norm.call(weight=None))
    run("rms_norm", rms_norm.call(weight=None))
    with pytest.raises(InvalidCall, match="weight is a NoneType"):
        run("gemma_rms_norm", rms_norm.call(weight=None))


def test_a_key_of_one_operation_with_fp8_values_serves_no_other() -> None:
    """Both operations take the same arguments where neither has a residual or a gate."""
    for operation in (*fp8.OPERATIONS, *fp8.OPERATIONS):
        arguments = fp8.full(operation) | ({"residual": None} if operation == NORM else {"gate": None})
        run(operation, arguments)
        assert_right(operation, {k: v for k, v in arguments.items() if k != "residual"}, run(operation, arguments))

    assert 2 == len(_cache)


def test_both_ranks_have_keys_of_their_own() -> None:
    """The same columns, as heads or not, and as heads of another width."""
    plain = flat(mrope.call())
    for arguments in (mrope.call(), plain, plain | {"head_dim": 32}, mrope.call(), plain):
        assert_right("mrope", arguments, run("mrope", arguments))

    assert 3 == len(_cache)


def test_strides_of_positions_decide_which_memory_they_share() -> None:
    """Positions that begin at the same address are refused if they reach into q, and taken if they do not."""
    tokens, heads, head_dim = 5, 2, 64
    buffer = torch.zeros(tokens * heads * head_dim, dtype=torch.int64, device=DEVICE)
    q = buffer.view(torch.float32)[-tokens * heads * head_dim :].view(tokens, heads, head_dim)
    given = mrope.call(tokens, (heads, 1), head_dim, 32) | {"q": q, "positions": buffer[:tokens]}
    run("mrope_", given)
    run("mrope_", given)
    # rotated zeros may be negative, which are no positions
    buffer.zero_()

    with pytest.raises(InvalidCall, match="q shares memory with positions"):
        run("mrope_", given | {"positions": buffer[:: buffer.numel() // tokens]})


@every("name", ("q", "k"))
def test_heads_of_another_width_are_refused_in_each_call(name: str) -> None:
    """They may have the strides of those that were taken."""
    given = mrope.call()
    run("mrope", given)

    with pytest.raises(InvalidCall):
        run("mrope", given | {name: given[name][..., :-1]})


@every("names", (("q",), ("k",), ("q", "k")))
def test_heads_of_other_ranks_are_refused(names: tuple[str, ...]) -> None:
    """A key is made of sizes that these do not have."""
    given = mrope.call()
    for shape in ((), (5,), (5, 1, 1, 64)):
        with pytest.raises(InvalidCall):
            run("mrope", given | {name: torch.zeros(shape, device=DEVICE) for name in names})


def test_a_cached_call_still_looks_at_memory() -> None:
    """The memory of q and k is no part of a key, and is checked in every call."""
    run("mrope_", mrope.call())
    q = values("q", 5, 6, 64)
    arguments = mrope.call(q=q, k=q[:, 1:3])
    before = bits(q).clone()

    with pytest.raises(InvalidCall, match="k shares memory with q"):
        run("mrope_", arguments)
    assert torch.equal(before, bits(q))


# --- how much is kept -------------------------------------------------------------------------------------------

KEPT = 1024  # decisions, and places of one decision


def written(rows: torch.Tensor, out: torch.Tensor, weight: torch.Tensor | None = None) -> None:
    """Make a call that writes into memory of the caller."""
    normkernels.rms_norm(rows, weight, eps=1.0, out=out)


def test_decisions_do_not_pile_up() -> None:
    """One more than are kept, and the cache starts anew."""
    one = torch.ones(1, 1, device=DEVICE)
    kept = []
    for number in range(KEPT + 1):
        normkernels.rms_norm(one, None, eps=float(number), path="native")
        kept.append(len(_cache))

    assert [*range(1, KEPT + 1), 1] == kept


def test_places_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither do the places of memory that were checked."""
    monkeypatch.setattr(launch, "launch", lambda *_: None)
    one, room = torch.ones(1, 1, device=DEVICE), torch.ones(KEPT + 1, 1, device=DEVICE)
    kept = []
    for number in range(KEPT + 1):
        written(one, room[number : number + 1])
        kept.append(len(next(iter(_cache.values())).checked))

    assert [*range(1, KEPT + 1), 1] == kept


def test_a_place_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that take turns between two places are checked with the decision, and once for each place."""
    operation, seen = OPERATIONS["rms_norm"], list[object]()
    monkeypatch.setattr(operation, "check_memory", seen.append)
    one, room = torch.ones(1, 1, device=DEVICE), torch.ones(2, 1, 1, device=DEVICE)
    for number in (0, 0, 1, 0, 1, 0):
        written(one, room[number])

    assert 3 == len(seen)


def test_a_native_call_looks_at_memory_each_time() -> None:
    """A call that no kernel takes has no counts to remember its memory by, as where quant groups cross groups."""
    crossing = fp8.call(GATED, 4, 24, group_size=8, quant_group=12)
    values_of_fp8 = torch.empty(4, 24, dtype=crossing["fp8_dtype"], device=DEVICE)
    room = torch.ones(5, 4, device=DEVICE)
    for _ in range(2):
        assert_right(GATED, crossing | {"out": values_of_fp8}, run(GATED, crossing | {"out": values_of_fp8}))
        normkernels.rms_norm(room[:2], None, eps=1.0, out=room[2:4], path="native")

    with pytest.raises(InvalidCall, match="out shares memory with x"):
        normkernels.rms_norm(room[:2], None, eps=1.0, out=room[1:3], path="native")


def test_more_rows_of_a_checked_place_are_checked() -> None:
    """From the same address on, three rows of x reach the output, and two do not."""
    room, weight = torch.ones(5, 4, device=DEVICE), torch.ones(4, device=DEVICE)
    for _ in range(2):
        written(room[:2], room[2:4], weight)

    with pytest.raises(InvalidCall, match="out shares memory with x"):
        written(room[:3], room[2:], weight)
