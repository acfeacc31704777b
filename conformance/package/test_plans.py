"""Plans come from sizes alone: their thresholds, the depth they promise, and what they cost to compile."""

from __future__ import annotations

import dataclasses
import types

import pytest
import torch

from conformance.package.gated_calls import DEVICE, assert_right, call, explain, run, strided, values
from normkernels.call import plan_table
from normkernels.kernels import plans
from normkernels.kernels.plans import INTERPRETED, MAX_WIDTH, MEASURED, Plan, PlanTable

WIDTHS = [1, 2, 3, 64, 127, 128, 129, 256, 257, 769, 5120, 8191, MAX_WIDTH]
TABLES = {"measured": MEASURED, "interpreted": INTERPRETED}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_prefill_begins_at_its_threshold(table: PlanTable) -> None:
    """One row less is decode."""
    assert "decode128" == plans.gated_128(table.tile_rows - 1, table).name
    assert "prefill128" == plans.gated_128(table.tile_rows, table).name


def threshold(width: int) -> int:
    """Return the number of rows that are many."""
    return MEASURED.tile_rows if width <= 256 else MEASURED.wide_rows


def test_tiles_grow_at_their_threshold() -> None:
    """Few rows are spread over many programs, many rows are not."""
    below = plans.general(MEASURED.tile_rows - 1, 128, MEASURED)
    above = plans.general(MEASURED.tile_rows, 128, MEASURED)

    assert below.rows < above.rows


@pytest.mark.parametrize("width", [257, 2048, 4096, 16384])
def test_wide_rows_lose_warps_at_their_threshold(width: int) -> None:
    """Few rows are shared by many warps, many rows are not."""
    few = plans.general(MEASURED.wide_rows - 1, width, MEASURED)
    many = plans.general(MEASURED.wide_rows, width, MEASURED)

    assert few.rows == many.rows == 1
    assert few.warps > many.warps


def test_columns_may_need_more_room_than_they_are() -> None:
    """Warps follow the columns, and the block holds the room."""
    plain, padded = plans.general(1, 5120, MEASURED), plans.general(1, 5120, MEASURED, 16384)

    assert dataclasses.replace(plain, levels=14) == padded


@pytest.mark.parametrize("warp", [32, 64])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_program_has_no_more_threads_than_any_gpu_takes(width: int, warp: int) -> None:
    """1,024, however many of them are a warp; and as many for a row, as long as they are enough."""
    table = dataclasses.replace(MEASURED, warp=warp)
    plan = plans.general(threshold(width), width, table)
    rotation = plans.heads(1, 32, 4, min(width, plans.MAX_HEAD_DIM), min(width, 512), table)

    assert warp <= plan.warps * warp <= 1024
    assert warp <= rotation.warps * warp <= 1024
    assert plan.warps * warp == max(plans.general(threshold(width), width, MEASURED).warps * 32, warp)


def test_warps_are_those_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """AMD has warps of 64 threads and of 32; what is not there is not asked."""
    sizes = (64, 32)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: types.SimpleNamespace(warp_size=sizes[index])
    )
    on = [types.SimpleNamespace(device=torch.device("cuda", index)) for index in range(2)]

    assert sizes == tuple(plan_table(each).warp for each in on)  # type: ignore[arg-type]  # all that is looked at
    assert plans.TABLE is plan_table(torch.empty(1))


@pytest.mark.parametrize("group", [1, 2, 3, 64, 127, 128, 769, 5120])
@pytest.mark.parametrize("width", [1, 3, 64, 128, 769, 5120])
@pytest.mark.parametrize("n", [1, 128, 192, 769, 5120, 15360])
def test_a_span_holds_whole_groups_of_both_kinds(n: int, width: int, group: int) -> None:
    """But for the end of a row; and where there is none, no span smaller than the row would hold them."""
    width, group = min(width, n), min(group, n)
    cut = plans.cut(n, width, group)
    if cut is None:
        assert width < n
        assert max(width, group) % min(width, group)
        return

    spans = [range(start, min(start + cut.span, n)) for start in range(0, n, cut.span)]
    for span in spans:
        assert 0 == span.start % width == span.start % group
        # its blocks, each in a power of two
        assert 2**cut.levels >= -(-len(span) // cut.block) * 2**cut.block_levels
        assert cut.block <= 2**cut.block_levels < 2 * cut.block
    assert 2**cut.levels < 4 * cut.span + 1


@pytest.mark.parametrize("rows", [1, MEASURED.tile_rows])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_block_holds_a_row_and_no_more(width: int, rows: int) -> None:
    """The block is the smallest power of two that holds a row, so the tree is as shallow as it can be."""
    levels = plans.general(rows, width, MEASURED).levels

    assert width <= 2**levels < 2 * width


@pytest.mark.parametrize("width", WIDTHS)
def test_a_sum_is_as_shallow_as_the_contract_says(width: int) -> None:
    """At most 24 additions in a chain up to 256 columns, 64 above."""
    assert plans.general(1, width, MEASURED).levels <= (24 if width <= 256 else 64)


def test_a_plan_that_sums_too_deep_does_not_exist() -> None:
    """The promise is held where plans are made."""
    with pytest.raises(AssertionError):
        Plan("general", rows=1, levels=65, warps=1)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_count_compiles_nothing_between_thresholds(width: int) -> None:
    """Rows per program, blocks and warps are the same for every row count on one side of a threshold."""
    some = [plans.general(rows, width, MEASURED) for rows in (1, 15, 16, 17, threshold(width) - 1)]
    many = [plans.general(rows, width, MEASURED) for rows in (threshold(width), 10**6, 10**9)]

    assert 1 == len(set(some)) == len(set(many))


@pytest.mark.parametrize("rows", [1, 7, 8, 31, 32, 33, 100, 4095, 4096])
def test_the_interpreter_runs_few_programs(rows: int) -> None:
    """No launch over up to 4,096 rows takes more than 64 programs on the CPU."""
    for plan in (plans.gated_128(rows, INTERPRETED), plans.general(rows, 769, INTERPRETED)):
        assert -(-rows // plan.rows) <= 64


@pytest.mark.parametrize("width", WIDTHS)
def test_the_interpreter_widens_tiles_in_few_steps(width: int) -> None:
    """Numbers of rows up to 64 have three tiles on either side of a threshold at most."""
    for rows in (range(1, INTERPRETED.tile_rows), range(INTERPRETED.tile_rows, 65)):
        assert len({plans.general(count, width, INTERPRETED) for count in rows}) <= 3


def test_warps_follow_the_tile() -> None:
    """Every thread has work, and no program asks for more warps than a GPU has."""
    for width in WIDTHS:
        for rows in (1, MEASURED.tile_rows):
            plan = plans.general(rows, width, MEASURED)
            assert 1 <= plan.warps <= 32
            assert plan.warps == 1 or (plan.rows << plan.levels) // (32 * plan.warps) >= 8


@pytest.mark.parametrize("width", [1, 3, 128, 769])
def test_bits_do_not_depend_on_the_plan(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """A row has the same bits alone, in a batch, under any table and in any layout."""
    batch = call(40, width)
    alone = {name: batch[name][17:18] for name in ("x", "gate")}
    want = run(batch)[17:18]

    assert torch.equal(want, run(batch | alone))
    assert torch.equal(want, run(batch | {name: strided(each) for name, each in alone.items()}))
    monkeypatch.setattr(plans, "TABLE", dataclasses.replace(plans.TABLE, tile_rows=1, wide_rows=1))
    assert torch.equal(want, run(batch)[17:18])


@pytest.mark.parametrize("width", [128, 96])
def test_a_weight_may_have_any_stride(width: int) -> None:
    """Every second element of a wider one, or one value for all columns."""
    for weight in (values("weight", 2 * width)[::2], values("weight", 1).expand(width)):
        arguments = call(3, width, weight=weight)
        assert_right(arguments, run(arguments))


def test_the_table_in_use_is_read_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another table changes plans from the next call on."""
    before = explain(call()).name
    monkeypatch.setattr(plans, "TABLE", dataclasses.replace(plans.TABLE, tile_rows=1))

    assert ("rows/decode128", "rows/prefill128") == (before, explain(call()).name)


@pytest.mark.skipif(DEVICE == "cpu", reason="the row counts at which a GPU changes plans take one")
@pytest.mark.parametrize("rows", [511, 512, 4095, 4096])
def test_both_sides_of_the_real_thresholds_are_right(rows: int) -> None:
    """On a GPU the measured thresholds are where plans really change."""
    for arguments in (call(rows, 128), call(rows, 128, gate=None), call(rows, 2048)):
        assert_right(arguments, run(arguments))


@pytest.mark.parametrize("shape", [(0, 128), (3, 0), (0,), (2, 0, 5)], ids=str)
@pytest.mark.parametrize("path", [None, "native"])
def test_empty_tensors_give_empty_results(shape: tuple[int, ...], path: str | None) -> None:
    """Nothing in, nothing out, on every path."""
    out = values("out", *shape)

    assert shape == run(call(*shape, path=path)).shape
    assert out is run(call(*shape, path=path, out=out))
