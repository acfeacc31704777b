"""The bits of a row depend on its values alone, not on batch, layout, plan or other results."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch

import normkernels
from conformance.package.calls import fp8, mrope, rms_norm
from conformance.package.calls.operations import run
from conformance.package.calls.tensors import strided
from conformance.selftest.every import every
from normkernels import plans, rms_norm_gated
from normkernels.call import Device
from normkernels.launch import Launches
from normkernels.operations import mrope as of_mrope
from normkernels.operations.operation import OPERATIONS, reread_environment
from normkernels.plans import Plan

HALF = torch.float16


@every("operation", ["rms_norm", *fp8.OPERATIONS])
@every("width", [1, 3, 128, 769])
def test_bits_do_not_depend_on_the_batch(operation: str, width: int) -> None:
    """A row has the same bits alone, in a batch, and in any layout."""
    batch = (
        rms_norm.added(40, width)
        if operation == "rms_norm"
        else fp8.full(operation, 40, width, dtype=torch.bfloat16)
    )
    want = [result[17:18] for result in run(operation, batch)]
    alone = {name: batch[name][17:18] for name in ("x", "gate", "residual") if name in batch}

    assert fp8.same(want, run(operation, batch | alone))
    assert fp8.same(want, run(operation, batch | {name: strided(each) for name, each in alone.items()}))


@every("width", [1, 128, 769])
def test_bits_are_those_of_the_gated_norm_without_a_gate(width: int) -> None:
    """The operations share their arithmetic."""
    arguments = rms_norm.call(5, width, dtype=torch.bfloat16)
    gated = rms_norm_gated(arguments["x"], None, arguments["weight"], eps=1e-6)

    assert torch.equal(gated, run("rms_norm", arguments)[0])


@every("group", [None, 64, 32])
@every("operation", fp8.OPERATIONS)
def test_the_norm_has_the_bits_of_the_plain_operation(operation: str, group: int | None) -> None:
    """Quantising changes no bit of y if its groups are powers of two or a whole row."""
    arguments = fp8.full(operation, 5, 200, dtype=torch.bfloat16, quant_group=group, path="rows")
    others = {"quant_group", "fp8_dtype", "also_unquantised"}
    plain = {name: each for name, each in arguments.items() if name not in others}
    want = getattr(normkernels, operation.removesuffix("_fp8"))(**plain)

    assert fp8.same(want if isinstance(want, tuple) else (want,), run(operation, arguments)[2:])


@pytest.mark.parametrize("heads", [(6, 2), (1, 1), (20, 3)], ids=str)
def test_bits_do_not_depend_on_batch_or_plan(
    heads: tuple[int, int], launched: list[plans.Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token has the same bits alone, in a batch, and with any plan table."""
    batch = mrope.call(70, heads)
    alone = {name: batch[name][17:18] for name in ("q", "k")} | {"positions": batch["positions"][:, 17:18]}
    wanted = mrope.run(batch)

    mrope.assert_right(batch, wanted)
    assert all(map(torch.equal, (each[17:18] for each in wanted), mrope.run(batch | alone)))
    device = Device.of(batch["q"])
    for scale in (10**4, 1):
        table = dataclasses.replace(device.table, scale=scale, max_programs=8)
        other = dataclasses.replace(device, table=table)
        monkeypatch.setattr(Device, "of", lambda _tensor, other=other: other)
        reread_environment()
        assert all(map(torch.equal, wanted, mrope.run(batch)))
        assert mrope.explain(batch).plan == launched[-1]
    assert len({launched[0], *launched[-2:]}) > 1


# Fields of plans that no program of the interpreter is without: any powers of two, and any number of programs.
ROTATED = [{"rows": 1, "heads": 32, "programs": 1}, {"rows": 4, "heads": 1, "programs": 5}]
ROTATED += [{"rows": 64, "heads": 2, "programs": 3}, {"rows": 2, "heads": 8, "programs": 12}]
NORMED = [{"rows": rows, "reads": reads} for rows in (1, 2, 512) for reads in ("together", "twice")]


@pytest.mark.parametrize(
    ("chosen", "operation", "changes"),
    [("heads", "mrope", ROTATED), *(("general", name, NORMED) for name in ("rms_norm", *fp8.OPERATIONS))],
)
def test_bits_are_those_of_any_valid_plan(
    chosen: str, operation: str, changes: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutants of plans that make other valid plans are equivalent for this reason (``test_plan_mutants.py``)."""
    usual = getattr(plans, chosen)
    batch = (
        mrope.call(19, (20, 3))
        if operation == "mrope"
        else rms_norm.added(40, 769)
        if operation == "rms_norm"
        else fp8.full(operation, 40, 769, dtype=torch.bfloat16)
    )
    wanted = list(run(operation, batch))
    for change in changes:
        monkeypatch.setattr(
            plans, chosen, lambda *a, change=change, **k: dataclasses.replace(usual(*a, **k), **change)
        )
        reread_environment()
        assert fp8.same(wanted, list(run(operation, batch))), change


def _planned(plan: Plan, _tokens: int) -> Plan:
    return plan


@pytest.mark.parametrize("tokens", [1, 2])
@pytest.mark.parametrize("ahead", [32, 1024])
def test_bits_do_not_depend_on_how_heads_are_shared(
    ahead: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any split of heads among programs, with all or some loaded ahead, gives the same bits, text or not."""
    monkeypatch.setattr(of_mrope, "AHEAD_BYTES", ahead)
    batch = mrope.call(5, (19, 3), 64, 32, HALF)
    batch["positions"][:, ::3] = batch["positions"][:1, ::3]
    wanted = mrope.run(batch | {"path": "native"})
    given = [batch[name] for name in ("positions", "cos", "sin")]
    flags = {"sections": batch["sections"], "head_dim": 64, "interleaved": True}
    copied, over = OPERATIONS["mrope"], OPERATIONS["mrope_"]

    mrope.assert_right(batch, wanted)
    for programs in (1, 12):
        plan = Plan("shared", tokens, 0, warps=1, heads=2, programs=programs)
        q, k = batch["q"], batch["k"]
        outs = torch.full_like(q, torch.nan), torch.full_like(k, torch.nan)
        in_place = q.clone(), k.clone()
        for operation, results, sources in ((copied, outs, (q, k)), (over, in_place, in_place)):
            buffers = [*sources, *given, *results]
            _, args = operation.arguments(flags, buffers, plan)
            arguments = partial(operation.arguments, flags)
            launches = Launches(q.device, partial(_planned, plan), arguments)
            launches.start(buffers, operation.counts(buffers, flags))
            assert all(map(torch.equal, wanted, results))
            assert programs > 1 or (args["Q_BLOCKS"] > args["AHEAD"]) == (ahead == 32)
