"""The comparison runs from end to end on narrow models, swaps every norm, and leaves the model as it was."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from transformers import StaticCache

import normkernels
from benchmarks.timing import Timing
from examples import decode, steps
from examples.decode import PHASES, main, modes, reason
from examples.models import BEFORE, CONTROL, OURS, SHAPES, Decoder, build, swapped
from examples.steps import ROOM, Call, batch_of, cache_of, calls_of, logits_of, rewind
from examples.table import Distance, Row, distance, line

# norms of a narrow model of two layers, and rotations of one forward: Qwen3.5 attends in its last layer alone
NORMS = {"Qwen3.5-27B": 2 * 2 + 2 + 1 + 1, "Gemma-3-4B": 4 * 2 + 2 * 2 + 1, "Qwen2-VL-7B": 2 * 2 + 1}
ROTATIONS = {"Qwen3.5-27B": 1, "Gemma-3-4B": 2, "Qwen2-VL-7B": 2}
PROMPT = 5
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def code_of(model: Decoder) -> ModuleType:
    """Return the module that the model's class is from."""
    return sys.modules[type(model.body).__module__]


def norms(model: nn.Module) -> list[type[nn.Module]]:
    """Return the class of each norm."""
    return [type(module) for module in model.modules() if "Norm" in type(module).__name__]


def test_all_of_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model has a row for each phase and mode, with times, its norms replaced, and logits that agree."""
    monkeypatch.setattr(steps, "MOST", 1)
    monkeypatch.setattr(steps, "COMPARED", 2)
    monkeypatch.setattr(decode, "STEPS", 1)
    monkeypatch.setattr(decode, "WARM_UPS", 1)
    out = tmp_path / "rows.jsonl"
    done = CliRunner().invoke(main, ["--tiny", "--prompt", str(PROMPT), "--out", str(out)], catch_exceptions=False)
    header, *rows = map(json.loads, out.read_text(encoding="utf-8").splitlines())

    assert 0 == done.exit_code
    assert {"torch", "triton", "transformers", "device", "commit"} <= header["header"].keys()
    assert [(row["model"], row["phase"], row["mode"]) for row in rows] == [
        (name, phase, mode) for name in SHAPES for phase in PHASES for mode in modes(DEVICE)
    ]
    for row in rows:
        assert "" == row["reason"]
        assert (NORMS[row["model"]], {}) == (row["norms"], row["unknown"])
        assert {BEFORE, OURS, CONTROL} == row["times"].keys()
        # narrow models of random weights: bfloat16 itself moves their logits this far
        assert row["distance"]["cosine"] > 0.995
        assert row["model"] in done.output


@pytest.mark.parametrize("name", SHAPES)
def test_ours_run_and_theirs_come_back(name: str, launched: list[object]) -> None:
    """Every norm and rotation of a forward launches a kernel of ours; afterwards the model's own are in place."""
    model = build(name, DEVICE, tiny=True)
    own, weights = norms(model), {key: value.data_ptr() for key, value in model.named_parameters()}
    rotation = vars(code_of(model))["apply_rotary_pos_emb"]
    with torch.inference_mode(), swapped(model) as models:
        after = models.ways[OURS].model
        batch = batch_of(model.body.config, 1, PROMPT, DEVICE)
        models.ways[BEFORE](batch.prompt, batch.cache)
        assert [] == launched
        models.ways[OURS](batch.token, batch.cache)

        assert NORMS[name] + ROTATIONS[name] == len(launched)
        assert {kind.__module__ for kind in norms(after)} == {normkernels.RMSNorm.__module__}
        assert weights == {key: value.data_ptr() for key, value in after.named_parameters()}
    assert own == norms(after) == norms(model)
    assert rotation is vars(code_of(model))["apply_rotary_pos_emb"]


@pytest.mark.parametrize("name", SHAPES)
def test_a_wrong_weight_shows_in_the_logits(name: str) -> None:
    """The distance of the rows is wide enough to see a norm that is wrong."""
    model = build(name, DEVICE, tiny=True)
    with torch.inference_mode(), swapped(model) as models:
        batch = batch_of(model.body.config, 2, PROMPT, DEVICE)
        run = {way: calls_of(models.ways[way], batch)["prefill"] for way in (BEFORE, OURS)}
        right, ours = (logits_of("prefill", run[way], run[way], batch) for way in (BEFORE, OURS))
        weight = next(weight for key, weight in model.named_parameters() if "norm" in key)
        weight.add_(torch.randn_like(weight))
        wrong = logits_of("prefill", run[OURS], run[OURS], batch)

    assert distance(ours, right).cosine > 0.995 > distance(wrong, right).cosine


@pytest.mark.parametrize("name", SHAPES)
def test_steps_continue_the_prompt(name: str) -> None:
    """The logits of steps are those of longer prompts, in this order."""
    model = build(name, DEVICE, tiny=True)
    with torch.inference_mode(), swapped(model) as models:
        batch = batch_of(model.body.config, 2, PROMPT, DEVICE)
        calls = calls_of(models.ways[BEFORE], batch)
        seen = logits_of("decode", calls["decode"], calls["prefill"], batch)
        for place, logits in enumerate(seen):
            longer = torch.cat((batch.prompt, batch.following[:, : place + 1]), dim=1)
            cache = StaticCache(config=model.body.config, max_cache_len=PROMPT + ROOM)
            assert distance(logits, models.ways[BEFORE](longer, cache)).cosine > 0.999


@pytest.mark.parametrize("name", SHAPES)
def test_a_step_changes_tensors_alone(name: str) -> None:
    """A number that a step changes in Python would stay in a graph as it was recorded."""

    def numbers() -> list[dict[str, object]]:
        return [{key: value for key, value in vars(layer).items() if type(value) is int} for layer in layers]

    model = build(name, DEVICE, tiny=True)
    with torch.inference_mode(), swapped(model) as models:
        batch = batch_of(model.body.config, 1, PROMPT, DEVICE)
        layers = batch.cache.layers
        calls = calls_of(models.ways[BEFORE], batch)
        calls["prefill"]()
        before = numbers()
        calls["decode"]()

    assert any(before)
    assert before == numbers()


def test_a_cache_longer_than_a_window_is_refused() -> None:
    """There a layer that keeps all tokens would not be one that slides."""
    config = build("Gemma-3-4B", DEVICE, tiny=True).body.config

    assert cache_of(config, config.sliding_window).layers
    with pytest.raises(ValueError, match="1025 tokens: must be at most 1024"):
        cache_of(config, config.sliding_window + 1)


def test_steps_never_fill_the_cache() -> None:
    """Rewound between rounds, a cache takes any number of steps, and each follows the prompt again."""
    model = build("Gemma-3-4B", DEVICE, tiny=True)
    with torch.inference_mode(), swapped(model) as models:
        batch = batch_of(model.body.config, 1, PROMPT, DEVICE)
        calls = calls_of(models.ways[BEFORE], batch)
        calls["prefill"]()
        first = calls["decode"]()
        for _ in range(ROOM):
            rewind(batch)
            again = calls["decode"]()

    assert torch.equal(first, again)


def test_graphs_run_in_place_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a row is of graphs, they are timed, and the logits that are compared are theirs."""
    replayed: list[str] = []

    def recorded(calls: dict[str, Call]) -> dict[str, Call]:
        def replay(name: str) -> torch.Tensor:
            replayed.append(name)
            return -calls[name]()

        return {name: functools.partial(replay, name) for name in calls}

    monkeypatch.setattr(steps, "MOST", 1)
    monkeypatch.setattr(decode, "STEPS", 1)
    monkeypatch.setattr(decode, "captured", recorded)
    plan = decode.Plan(("Qwen2-VL-7B",), (1,), None, PROMPT, 600.0, tiny=True)
    monkeypatch.setattr(decode, "modes", lambda _: ("graph",))
    rows = [*decode.rows(plan, DEVICE)]

    assert {BEFORE, OURS, CONTROL} == set(replayed)
    assert ["", ""] == [row.reason for row in rows]
    assert all(row.times and row.distance and row.distance.cosine < -0.99 for row in rows)


class Ending:
    """A recording whose end hides the error that ended it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        raise RuntimeError("the recording ended")


def test_a_row_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that raises makes a row with the error and the place in the code where it began."""

    def refusing(*_: object) -> None:
        with Ending():
            torch.zeros(2).view(3)

    monkeypatch.setattr(decode, "logits_of", refusing)
    plan = decode.Plan(("Qwen2-VL-7B",), (1,), None, PROMPT, 60.0, tiny=True)
    rows = [*decode.rows(plan, DEVICE)]

    why = "RuntimeError in refusing (test_decode.py): shape '[3]' is invalid for input of size 2"
    assert {why} == {row.reason for row in rows}
    assert all(line(row).endswith(row.reason) for row in rows)


@pytest.mark.parametrize(("times", "built"), [((0, 9), []), ((0, 0, 0, 9), ["Qwen2-VL-7B"])])
def test_a_spent_budget_leaves_rows(
    times: Sequence[int], built: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows for which no time was left say so, also where there was none left to make the model."""
    made: list[str] = []

    def note(name: str, *given: Any, **rest: Any) -> Decoder:
        made.append(name)
        return build(name, *given, **rest)

    monkeypatch.setattr(decode, "build", note)
    monkeypatch.setattr(decode, "measured", lambda row, *_: row)
    monkeypatch.setattr(decode, "time", SimpleNamespace(monotonic=iter(times).__next__))
    plan = decode.Plan(("Qwen2-VL-7B",), (1,), None, PROMPT, 1.0, tiny=True)

    assert [*[""] * len(built), *[decode.LATE] * (2 - len(built))] == [r.reason for r in decode.rows(plan, DEVICE)]
    assert built == made


def test_a_line_has_times_ratios_and_distance() -> None:
    """Ratios are to the time before."""
    times = {way: Timing(ms, ms, ms, 3) for way, ms in ((BEFORE, 2.0), (OURS, 1.0), (CONTROL, 2.002))}
    row = Row("Gemma-3-4B", 34, 34, 205, {}, "decode", "graph", 8, 128, times, Distance(0.25, 0.99999, 1.0))

    shown = ("Gemma-3-4B", "34/34", "decode", "8", "graph", "2.000", "1.000", "0.500", "1.001", "0.250", "0.99999")

    assert [*shown, "100%"] == line(row).split()


def test_an_error_without_a_trace_has_no_place() -> None:
    """An error that was never raised is told by its message."""
    assert "ValueError: no" == reason(ValueError("no"))
