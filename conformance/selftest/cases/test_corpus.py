"""The corpus: shapes of real models as frozen data."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from conformance.cases import corpus

SHAPES = corpus.model_shapes()
GATED = [shape for shape in SHAPES if shape.operation == "rms_norm_gated"]


def _rows(model: str, tp: int, tokens: int) -> tuple[int, ...]:
    (shape,) = [s for s in GATED if (s.model, s.tp) == (model, tp)]
    return shape.shape(tokens)


@pytest.mark.parametrize(
    ("model", "tp", "shape"),
    [
        ("Qwen3-Next-80B-A3B", 1, (60381, 32, 128)),
        ("Qwen3-Next-80B-A3B", 8, (60381, 4, 128)),
        ("Qwen3.5-27B", 2, (60381, 24, 128)),
        ("Qwen3.5-27B", 8, (60381, 6, 128)),
        ("Nemotron-3-Nano-30B-A3B", 4, (60381, 1024)),
    ],
)
def test_tensor_parallelism_divides_heads_or_the_row(model: str, tp: int, shape: tuple[int, ...]) -> None:
    """A rank has whole heads; if the row is normalised as a whole, a part of the row."""
    assert shape == _rows(model, tp, 60381)


def test_norms_between_layers_are_whole_on_every_rank() -> None:
    """Rows have the hidden size under any tensor parallelism, with and without a residual; heads divide."""
    norms = [s for s in SHAPES if s.operation in {"rms_norm", "gemma_rms_norm"}]
    between = [s for s in norms if s.heads is None]

    gated = {s.model for s in GATED}

    assert gated <= {s.model for s in between}
    assert all((7, s.hidden_size) == s.shape(7) for s in between)
    assert all(s.eps for s in (*norms, *GATED))
    assert {(s.model, s.tp, r) for s in GATED for r in (True, False)} == {
        (s.model, s.tp, dict(s.flags)["residual"]) for s in between if s.model in gated
    }
    assert [(7, 16, 256), (7, 8, 256), (7, 4, 256), (7, 2, 256)] == [s.shape(7) for s in norms if s.heads]


def test_rows_of_fp8_outputs_are_quantised_in_groups_of_128() -> None:
    """Hidden rows, rows that no rank divides, and heads have such groups."""
    fp8 = [s for s in SHAPES if s.operation.endswith("_fp8") and s.tp == 4]

    assert {128} == {dict(s.flags)["quant_group"] for s in fp8}
    assert {(7, 7168), (7, 1536), (7, 2048), (7, 8, 128)} == {s.shape(7) for s in fp8}


def test_every_model_is_there_at_every_tensor_parallelism() -> None:
    """The corpus has the milestone's models on 1, 2, 4 and 8 ranks, with their decode batches."""
    for model in ("Qwen3-Next-80B-A3B", "Qwen3.5-27B"):
        shapes = [s for s in GATED if s.model == model]

        assert [1, 2, 4, 8] == [s.tp for s in shapes]
        assert {(1, 2, 4, 8, 16, 32, 64, 128, 256, 512)} == {s.decode for s in shapes}
        assert {(60381,)} == {s.prefill for s in shapes}


def test_groups_stay_whole_on_every_rank() -> None:
    """The group size does not shrink with the row, so it divides each rank's part."""
    for shape in SHAPES:
        group_size = dict(shape.flags).get("group_size", shape.head_dim)

        assert isinstance(group_size, int)
        assert 0 == shape.head_dim % group_size


def test_every_shape_says_where_it_is_from() -> None:
    """Every number has a source."""
    assert all(s.source for s in SHAPES)


def test_shapes_are_frozen() -> None:
    """No test can change the shapes that another test reads."""
    with pytest.raises(FrozenInstanceError):
        SHAPES[0].tp = 3  # type: ignore[misc]


def test_saved_cases_are_cases() -> None:
    """Every file of fixtures/cases can be read, and no case is there twice."""
    cases = corpus.saved_cases()

    assert len(set(cases)) == len(cases)


def test_heads_that_do_not_divide_are_refused() -> None:
    """A tensor parallelism that would split a head names the model and the numbers."""
    model: dict[str, Any] = {"model": "odd", "rms_norm_gated": {"heads": 6, "head_dim": 128, "eps": 1e-6}}

    with pytest.raises(ValueError, match="odd: heads=6 does not divide among 4 ranks"):
        corpus._shape(model, "rms_norm_gated", model["rms_norm_gated"], 4)


def test_a_suite_without_fixtures_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder that is not found ends a run, which would otherwise judge no case of a real model."""
    monkeypatch.setattr(corpus, "__file__", str(tmp_path / "conformance" / "cases" / "corpus.py"))
    monkeypatch.setattr("importlib.resources.files", lambda _package: tmp_path)

    with pytest.raises(FileNotFoundError, match="fixtures are in none of"):
        corpus.saved_cases()
