"""The candidates of the sweep, and the conclusions from its times."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest
import torch

from benchmarks.candidates import PER_THREAD, Size, candidates, chosen, label, sizes
from benchmarks.sweep import Problem, Swept, problem, proposed, same_bits, summary, to_data
from benchmarks.timing import Timing
from conformance.runs.host import choose_device
from conformance.selftest.every import every
from normkernels.plans import Plan, Reads

NARROW, WIDE = Size("gated 128", 24, 128), Size("norm", 16, 5120, "residual")


def swept(rows: int, **times: float) -> Swept:
    """Return times of plans at a number of rows; today's plan is a."""
    timings = {name: Timing(time, time, time, 3) for name, time in times.items()}
    return Swept(Size("norm", rows, 5120, "alone"), "a", timings, {"copy": timings["a"], "triad": timings["a"]})


@every("size", sizes())
def test_todays_plan_is_among_the_candidates(size: Size) -> None:
    """The others are compared with it; no two candidates share a label."""
    tried = candidates(size)

    assert chosen(size) in tried
    assert len(tried) == len({label(plan) for plan in tried}) > 1


@every("size", sizes())
def test_no_candidate_changes_the_tree_of_a_sum(size: Size) -> None:
    """The tree's levels depend on the width, and not on the rows of a program."""
    for plan in candidates(size):
        assert isinstance(plan, Plan) or plan.levels == chosen(size).levels


def test_threads_have_whole_loads_and_no_more_than_registers_hold() -> None:
    """No thread repeats another's work, and no thread spills."""
    shares = {plan.rows * 2**plan.levels / (32 * plan.warps) for plan in candidates(NARROW)}

    # one row of 128 with one warp has half a load: the only tile without a whole one
    assert {*PER_THREAD, 4} == shares
    assert ["r1 w1"] == [label(plan) for plan in candidates(NARROW) if plan.rows == 1]


def test_wide_rows_have_a_program_each() -> None:
    """Several rows would wait for each other at each level of their sums."""
    assert {1} == {plan.rows for plan in candidates(WIDE)}


def test_rows_with_a_residual_are_read_in_every_way() -> None:
    """Rows without a residual have only one way."""
    ways = {
        form: {plan.reads for plan in candidates(Size("norm", 8192, 5120, form))} for form in ("residual", "alone")
    }

    assert {"residual": set(get_args(Reads)), "alone": {"as needed"}} == ways


def test_the_sizes_are_what_models_call() -> None:
    """Rows of 128 go from one token to beyond the longest prefill; eleven widths have up to 65,536 tokens."""
    every = sizes()

    assert (24, 2097152) == (every[0].rows, max(size.rows for size in every if size.kernel == "gated 128"))
    widths = {256, 1024, 2048, 2560, 3584, 4096, 5120, 6144, 7168, 8192, 16384}
    assert widths == {size.width for size in every if size.kernel == "norm"}
    assert {1, 65536} <= {size.rows for size in every if size.kernel == "mrope"}
    assert len(every) == len({size.name for size in every})


@pytest.mark.parametrize(
    ("size", "moved"),
    [
        (Size("gated 128", 10, 128), 10 * 128 * 6),
        (Size("norm", 10, 5120, "residual"), 10 * 5120 * 8),
        (Size("norm fp8", 10, 5120, "residual"), 10 * (5120 * 7 + 40 * 4)),
        (Size("gated fp8", 10, 128), 10 * (128 * 5 + 4)),
        (Size("mrope", 10, 256, "in place", (24, 4), 32), 10 * (28 * 64 * 4 + 64 * 4 + 24)),
        (Size("mrope", 10, 256, "copied", (24, 4), 32), 10 * (28 * 256 * 4 + 64 * 4 + 24)),
    ],
)
def test_bytes_are_those_of_the_arguments(size: Size, moved: int) -> None:
    """Inputs count once as read and outputs once as written."""
    assert moved == size.bytes


def test_the_best_plan_and_what_todays_loses() -> None:
    """Plans are compared by medians; the share of the ceiling is the best plan's."""
    one = swept(16, a=3.0, b=2.0)

    assert ("b", 1.5, 1.5) == (one.best, one.loss, one.share)


def test_a_table_has_as_few_plans_as_stay_within_the_noise() -> None:
    """A plan that is nearly the best at many sizes is kept; at other sizes another plan begins."""
    times = (swept(1, a=1.0, b=1.01), swept(16, a=2.0, b=1.0), swept(128, a=1.0, b=1.0), swept(1024, a=1.0, b=3.0))

    assert {"norm alone rows x 5120": [(1, "b"), (1024, "a")]} == proposed(times)


def test_the_summary_names_what_loses() -> None:
    """The summary names only plans that lose more than the noise."""
    said = summary([swept(16, a=1.01, b=1.0), swept(128, a=1.5, b=1.0)]).partition("proposed:")[0]

    assert "128x5120" in said
    assert "16x5120" not in said


def test_a_result_is_json() -> None:
    """The JSON has everything that the table is made of."""
    data = json.loads(json.dumps(to_data({"device": "none"}, [swept(16, a=1.0, b=2.0)])))

    assert 2.0 == data["swept"][0]["times"]["b"]["median"]
    assert {"rows": 16, "width": 5120} == {name: data["swept"][0]["size"][name] for name in ("rows", "width")}


@pytest.mark.parametrize(("kernel", "form"), sorted({(size.kernel, size.form) for size in sizes()}))
def test_the_plan_of_today_writes_every_element(kernel: str, form: str) -> None:
    """Every kernel, launched on inputs of few rows, leaves no NaN in its results."""
    size = replace(next(size for size in sizes() if (size.kernel, size.form) == (kernel, form)), rows=3)
    one = problem(size, choose_device(None))
    one.reset()
    one.launch(chosen(size))

    assert not any(tensor.float().isnan().any() for tensor in one.written)
    assert same_bits(one, chosen(size), {"again": chosen(size)})["again"]


def test_a_plan_with_other_bits_is_seen() -> None:
    """A zero of the other sign, or an unwritten element, is seen: equal numbers are not enough."""
    out = torch.empty(4)
    plans = {name: Plan(name, 1, 2, 1) for name in ("today", "same", "sign", "gap")}

    def launch(plan: Plan) -> None:
        out[: 3 if plan.name == "gap" else 4] = -0.0 if plan.name == "sign" else 0.0

    same = same_bits(Problem(launch, (out,)), plans["today"], plans)

    assert {"today": True, "same": True, "sign": False, "gap": False} == same


def test_what_is_written_over_is_restored_first() -> None:
    """An in-place plan gets the same inputs as today's plan."""
    out = torch.ones(4)
    plan = Plan("today", 1, 2, 1)
    one = Problem(lambda _: out.mul_(2), (out,), (out.clone(),))

    assert {"again": True} == same_bits(one, plan, {"again": plan})
