"""Plans come from sizes alone: their thresholds, the depth they promise, and what they cost to compile."""

from __future__ import annotations

import dataclasses
import itertools
import types
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conformance.package.calls.rms_norm_gated import assert_right, call, explain, run
from conformance.package.calls.tensors import DEVICE, strided, values
from normkernels import plans
from normkernels.call import Device
from normkernels.operations.operation import reread_environment
from normkernels.plans import INTERPRETED, MAX_WIDTH, MEASURED, Plan, PlanTable

# those at which plans change, with their neighbours, and any others
EDGES = sorted(
    {width + d for tiles in plans.TILES.values() for width in tiles for d in (-1, 0, 1)} - {MAX_WIDTH + 1}
)
WIDTHS = st.sampled_from(EDGES) | st.integers(1, MAX_WIDTH)
TABLES = {"measured": MEASURED, "interpreted": INTERPRETED}


@pytest.fixture
def another_table(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what changes the table of the device that tests run on, and forgets launches by the old one."""

    def change(**changes: int | None) -> None:
        name = "INTERPRETED" if DEVICE == "cpu" else "MEASURED"
        monkeypatch.setattr(plans, name, dataclasses.replace(getattr(plans, name), **changes))
        reread_environment()

    return change


KINDS = [kind for kind in plans.TILES if kind != "gated 128"]
ANY_KIND = st.sampled_from(KINDS)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_prefill_begins_at_its_threshold(table: PlanTable) -> None:
    """One row less is decode."""
    first = plans.row_thresholds("gated 128", table)[-1]

    assert "decode128" == plans.gated_128(first - 1, table).name
    assert "prefill128" == plans.gated_128(first, table).name


def steps(kind: str, width: int, table: PlanTable = MEASURED) -> list[Plan]:
    """Return the plans for rows of a width, below, at and far above each threshold of the kind."""
    starts = plans.row_thresholds(kind, table)
    counts = sorted({1, *starts, *(start - 1 for start in starts), 10**9})
    return [plans.general(kind, count, width, table) for count in counts]


def test_tiles_grow_at_their_threshold() -> None:
    """Few rows are spread over many programs, many rows are not."""
    some, *_, many = steps("gated", 128)

    assert some.rows < many.rows


@pytest.mark.parametrize("width", [2048, 4096, 6144, 8192, 16384])
def test_wide_rows_lose_warps_at_their_threshold(width: int) -> None:
    """Few rows are shared by many warps, many rows are not."""
    few, *_, many = steps("norm", width)

    assert few.rows == many.rows == 1
    assert few.warps > many.warps


def test_columns_may_need_more_room_than_they_are() -> None:
    """Warps follow the columns, and the block holds the room."""
    plain, padded = (plans.general("fp8", 1, 5120, MEASURED, room) for room in (None, 16384))

    assert dataclasses.replace(plain, levels=14) == padded


@pytest.mark.parametrize("kind", KINDS)
def test_every_width_has_tiles_from_the_first_row_on(kind: str) -> None:
    """And thresholds that grow, up to widths that no plan is for."""
    assert MAX_WIDTH == max(plans.TILES[kind])
    for tiles in plans.TILES[kind].values():
        starts = [tile.start for tile in tiles]
        assert 0 == starts[0]
        assert starts == sorted(set(starts))
    assert plans.general(kind, 1, 2 * MAX_WIDTH, MEASURED).levels == 16


@pytest.mark.parametrize("warp", [32, 64])
@given(width=WIDTHS)
def test_a_program_has_no_more_threads_than_any_gpu_takes(width: int, warp: int) -> None:
    """1,024, however many of them are a warp; and as many for a row, as long as they are enough."""
    table = dataclasses.replace(MEASURED, warp=warp)
    size = min(width, plans.MAX_HEAD_DIM), min(width, 512)
    for tokens in (1, *plans.token_thresholds(table)):
        assert warp <= plans.heads(tokens, 32, 4, *size, table, copied=False).warps * warp <= 1024
    for kind in KINDS:
        for plan, of_32 in zip(steps(kind, width, table), steps(kind, width), strict=True):
            assert warp <= plan.warps * warp <= 1024
            # as many threads, or where those are no whole warp, as many elements a thread
            assert plan.warps * warp == max(of_32.warps * 32, warp)
            assert plan.rows == of_32.rows or plan.rows * of_32.warps * 32 <= of_32.rows * plan.warps * warp


def test_warps_are_those_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """AMD has warps of 64 threads and of 32; what is not there is not asked."""
    sizes = (64, 32)
    before = Device.of(torch.empty(1, device=DEVICE)).table
    monkeypatch.setattr("normkernels.call.interpreting", lambda: False)
    monkeypatch.setattr("normkernels.call.has_triton", lambda: True)
    monkeypatch.setattr("normkernels.call._compiled_fp8", lambda _index: ())
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: types.SimpleNamespace(warp_size=sizes[index])
    )
    on = [types.SimpleNamespace(device=torch.device("cuda", index)) for index in range(2)]

    tables = [Device.of(each).table for each in on]  # type: ignore[arg-type]  # all that is looked at
    assert sizes == tuple(table.warp for table in tables)
    # the rest is what was measured, without what only NVIDIA's compiler takes
    assert [dataclasses.replace(MEASURED, warp=size, ptx=False) for size in sizes] == tables
    assert MEASURED is Device.of(torch.empty(1)).table
    assert before is (INTERPRETED if DEVICE == "cpu" else MEASURED)


def test_a_machine_is_described_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton says which fp8 types a GPU has, where there is Triton and a GPU: nothing else is asked."""
    gpu, cpu = (types.SimpleNamespace(device=torch.device(device)) for device in ("cuda:1", "cpu"))
    monkeypatch.setattr("normkernels.call.interpreting", lambda: False)
    monkeypatch.setattr(torch.version, "hip", None)

    def described(on: object, *, triton: bool) -> Device:
        monkeypatch.setattr("normkernels.call.has_triton", lambda: triton)
        monkeypatch.setattr("normkernels.call._compiled_fp8", lambda index: {1: ("float8_e5m2",)}[index] * triton)
        return Device.of(on)  # type: ignore[arg-type]  # all that is looked at

    plain = Device("cuda", has_triton=True, interpreting=False, table=MEASURED)
    assert dataclasses.replace(plain, fp8=("float8_e5m2",)) == described(gpu, triton=True)
    assert dataclasses.replace(plain, has_triton=False) == described(gpu, triton=False)
    assert dataclasses.replace(plain, kind="cpu") == described(cpu, triton=True)


@st.composite
def groups_of_rows(draw: st.DrawFn) -> tuple[int, int, int]:
    """Draw columns of a row, of a norm group and of a quant group; the larger may hold whole smaller ones."""
    small = draw(st.integers(1, 130))
    large = draw(st.integers(1, 40).map(lambda times: times * small) | st.integers(1, 5120))
    n = draw(st.integers(1, 5).map(lambda times: times * large) | st.integers(1, 5120) | st.just(large))
    width, group = draw(st.permutations([min(small, n), min(large, n)]))
    return n, width, group


@given(sizes=groups_of_rows())
def test_a_span_holds_whole_groups_of_both_kinds(sizes: tuple[int, int, int]) -> None:
    """But for the end of a row; and where there is none, no span smaller than the row would hold them."""
    n, width, group = sizes
    cut = plans.cut(n, width, group)

    assert (cut is None) == (width < n and max(width, group) % min(width, group) > 0)
    if cut is not None:
        for start in range(0, n, cut.span):
            columns = min(cut.span, n - start)
            assert 0 == start % width == start % group
            # its blocks, each in a power of two
            assert 2**cut.levels >= -(-columns // cut.block) * 2**cut.block_levels
        assert cut.block <= 2**cut.block_levels < 2 * cut.block
        assert 2**cut.levels < 4 * cut.span + 1


@given(width=WIDTHS, kind=ANY_KIND)
def test_a_block_holds_a_row_and_no_more(width: int, kind: str) -> None:
    """The block is the smallest power of two that holds a row, so the tree is as shallow as it can be."""
    for plan in steps(kind, width):
        assert width <= 2**plan.levels < 2 * width


@given(width=WIDTHS)
def test_a_sum_is_as_shallow_as_the_contract_says(width: int) -> None:
    """At most 24 additions in a chain up to 256 columns, 64 above."""
    assert plans.general("norm", 1, width, MEASURED).levels <= (24 if width <= 256 else 64)


def test_a_plan_that_sums_too_deep_does_not_exist() -> None:
    """The promise is held where plans are made."""
    with pytest.raises(AssertionError):
        Plan("general", rows=1, levels=65, warps=1)


@given(width=WIDTHS, kind=ANY_KIND)
def test_a_row_count_compiles_nothing_between_thresholds(width: int, kind: str) -> None:
    """Rows per program, blocks and warps are the same for every row count on one side of a threshold."""
    starts = [1, *plans.row_thresholds(kind, MEASURED), 10**9]
    for start, end in itertools.pairwise(starts):
        between = (start, start + 1, (start + end) // 2, end - 1)
        assert 1 == len({plans.general(kind, rows, width, MEASURED) for rows in between})


@given(rows=st.sampled_from([1, 31, 32, 33]) | st.integers(1, 4096), width=WIDTHS)
def test_the_interpreter_runs_few_programs(rows: int, width: int) -> None:
    """No launch over up to 4,096 rows takes more than 64 programs on the CPU."""
    for plan in (plans.gated_128(rows, INTERPRETED), plans.general("norm", rows, width, INTERPRETED)):
        assert -(-rows // plan.rows) <= 64


@given(width=WIDTHS)
def test_the_interpreter_widens_tiles_in_few_steps(width: int) -> None:
    """Numbers of rows up to 64 have three tiles on either side of a threshold at most."""
    starts = [1, *plans.row_thresholds("norm", INTERPRETED), 65]
    for start, end in itertools.pairwise(starts):
        assert len({plans.general("norm", count, width, INTERPRETED) for count in range(start, end)}) <= 3


@given(width=WIDTHS, kind=ANY_KIND)
def test_warps_follow_the_tile(width: int, kind: str) -> None:
    """Every thread has work, and no program asks for more warps than a GPU has."""
    for plan in steps(kind, width):
        assert 1 <= plan.warps <= 32
        assert plan.warps == 1 or (plan.rows << plan.levels) // (32 * plan.warps) >= 8


@pytest.mark.parametrize("width", [1, 3, 128, 769])
def test_bits_do_not_depend_on_the_plan(another_table: Callable[..., None], width: int) -> None:
    """A row has the same bits alone, in a batch, under any table and in any layout."""
    batch = call(40, width)
    alone = {name: batch[name][17:18] for name in ("x", "gate")}
    want = run(batch)[17:18]

    assert torch.equal(want, run(batch | alone))
    assert torch.equal(want, run(batch | {name: strided(each) for name, each in alone.items()}))
    before = explain(batch).plan
    another_table(
        **({"scale": 1, "max_programs": None} if DEVICE == "cpu" else {"scale": 10**4, "max_programs": 1})
    )
    # a program has 64 of the narrowest rows whatever the table
    assert before != explain(batch).plan or width < 8
    assert torch.equal(want, run(batch)[17:18])


@pytest.mark.parametrize("width", [128, 96])
def test_a_weight_may_have_any_stride(width: int) -> None:
    """Every second element of a wider one, or one value for all columns."""
    for weight in (values("weight", 2 * width)[::2], values("weight", 1).expand(width)):
        arguments = call(3, width, weight=weight)
        assert_right(arguments, run(arguments))


def test_the_table_is_that_of_the_device(another_table: Callable[..., None]) -> None:
    """Another table changes plans of every call that is not known yet."""
    before = explain(call()).name
    another_table(scale=10**4)

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
