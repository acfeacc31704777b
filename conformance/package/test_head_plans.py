"""Plans of rotations: how many heads and tokens a program has, and how wide it reads them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from conformance.package.calls.mrope import call, run, views_of_one_buffer
from conformance.package.calls.tensors import Arguments, values
from conformance.selftest.every import every
from normkernels import launch, plans
from normkernels.plans import INTERPRETED, MEASURED, Plan

WIDEST = plans.MAX_HEAD_DIM

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


@every("name", ACCESSES)
def test_a_layout_gets_the_accesses_that_it_allows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen bytes at a time only where every head, half and row of each tensor begins at a multiple of them."""
    wanted, make = ACCESSES[name]
    seen: list[str] = []

    def note(cached: launch.Launch, buffers: Any, pointers: Any, counts: Any) -> None:
        names = cached.kernel.arg_names[len(buffers) + len(counts) :]
        seen.append(dict(zip(names, cached.rest, strict=True))["ACCESS"])
        start(cached, buffers, pointers, counts)

    start = launch.launch
    with monkeypatch.context() as patch:
        patch.setattr(launch, "launch", note)
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


@every("copied", [True, False])
@every(("q", "k"), [(1, 1), (3, 1), (6, 1), (24, 4), (96, 8)])
@every("head_dim", [8, 64, 97, 128, 256, WIDEST])
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


@every("copied", [True, False])
@every(("q", "k"), [(1, 1), (3, 1), (24, 4), (28, 4), (2, 64)])
@every("head_dim", [1, 64, 97, 128, 256, WIDEST])
def test_a_token_count_compiles_nothing_between_thresholds(q: int, k: int, head_dim: int, *, copied: bool) -> None:
    """A plan is the same for every token count between thresholds, and a program has its fill."""
    starts = [1, *plans.token_thresholds(MEASURED), 10**9]
    for start, end in itertools.pairwise(starts):
        between = (start, start + 1, (start + end) // 2, end - 1)
        (plan,) = {heads(tokens, MEASURED, q, k, head_dim, copied=copied) for tokens in between}
        assert plan.rows * plan.heads * head_dim <= 16384
        assert 1 <= plan.warps <= 16


@every("tokens", [1, 7, 8, 33, 100, 4096])
def test_the_interpreter_runs_few_programs(tokens: int) -> None:
    """No launch over up to 4,096 tokens takes more than 64 programs on the CPU."""
    plan = heads(tokens, INTERPRETED)

    assert -(-tokens // plan.rows) * plan.programs <= 64
