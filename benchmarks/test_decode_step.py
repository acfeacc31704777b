"""The calls of a step are those of the model, and its times add up."""

from __future__ import annotations

from benchmarks.decode_step import MODEL, Taken, lines, shares, small, stack
from conformance.cases.corpus import model_shapes

SHAPES = [shape for shape in model_shapes() if (shape.model, shape.tp) == (MODEL, 1)]


def test_the_stack_has_the_calls_of_the_model() -> None:
    """Each of 64 layers has two norms, and one norm follows; every fourth attends; the first adds no residual."""
    calls = {kind.name: kind.calls for kind in stack(SHAPES)}

    assert {
        "norm": 1,
        "norm + residual": 128,
        "gated norm": 48,
        "q norm": 16,
        "k norm": 16,
        "rotation": 16,
    } == calls


def test_the_stack_has_the_shapes_of_the_model() -> None:
    """Hidden size, heads and sections are those of the model's file."""
    kinds = {kind.name: kind for kind in stack(SHAPES)}

    assert (1, 5120, 1e-6) == tuple(getattr(kinds["norm + residual"], key) for key in ("heads", "width", "eps"))
    assert (48, 128, 1e-6) == tuple(getattr(kinds["gated norm"], key) for key in ("heads", "width", "eps"))
    assert (24, 4) == (kinds["q norm"].heads, kinds["k norm"].heads)
    assert (24, 4, (11, 11, 10), 32) == tuple(
        getattr(kinds["rotation"], key) for key in ("heads", "k_heads", "sections", "half")
    )


def test_a_smoke_step_has_every_kind_once() -> None:
    """Every kind has one call, narrow enough for an interpreter."""
    kinds = small(stack(SHAPES))

    assert [kind.name for kind in stack(SHAPES)] == [kind.name for kind in kinds]
    assert {1} == {kind.calls for kind in kinds}
    assert max(kind.width for kind in kinds) <= 256


def test_shares_are_of_the_whole() -> None:
    """The shares sum to one."""
    assert {"a": 0.25, "b": 0.75} == shares({"a": 1.0, "b": 3.0})


def test_a_step_that_lacks_a_kind_has_no_total() -> None:
    """A sum without some kinds would look fast."""
    kinds = stack(SHAPES)
    whole = {kind.name: 1.0 for kind in kinds}
    result = Taken({"ours": whole, "native": {"norm": 1.0}}, {})
    said = lines(8, result, kinds)

    assert "6.000 ms" in said[1]
    assert "not all of it ran" in said[2]
