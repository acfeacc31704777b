"""Reproducers of a rotation: rows that are tokens, integers, slices of one buffer, outputs copied in part."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from conformance import reproducer
from conformance.adapter import load
from conformance.calling import Subject
from conformance.case import Case, Layout, TensorSpec
from conformance.selftest.reproduced import failure_of, run_script

PLAIN = Case(
    "mrope",
    (
        ("q", TensorSpec((4, 2, 8), "bfloat16")),
        ("k", TensorSpec((4, 1, 8), "bfloat16")),
        ("positions", TensorSpec((3, 4), "int64", values="positions<9")),
        ("cos", TensorSpec((9, 3), "bfloat16", values="cos")),
        ("sin", TensorSpec((9, 3), "bfloat16", values="sin")),
    ),
    (("head_dim", None), ("interleaved", True), ("sections", (1, 1, 1))),
    seed=3,
)


def _with(case: Case, **layouts: Layout) -> Case:
    for name, spec in case.tensors:
        case = case.with_tensor(name, replace(spec, layout=layouts.get(name, spec.layout)))
    return case


STRIDED = _with(
    PLAIN,
    q=Layout("slice", 0, 32),
    k=Layout("slice", 16, 32),
    positions=Layout("transposed"),
    cos=Layout("shared", 0),
    sin=Layout("shared", 1),
)
SPECIAL = PLAIN.with_tensor("q", TensorSpec((4, 2, 8), "bfloat16", values="specials"))
# enough numbers for a mean, all of them turned
LONG = PLAIN
for _name, _shape in (
    ("q", (64, 4, 64)),
    ("k", (64, 1, 64)),
    ("positions", (3, 64)),
    ("cos", (9, 32)),
    ("sin", (9, 32)),
):
    LONG = LONG.with_tensor(_name, replace(dict(PLAIN.tensors)[_name], shape=_shape))
LONG = LONG.with_flag("sections", (12, 10, 10))
FAR = _with(PLAIN, k=Layout("row_gap", 2**31 + 5))
EMPTY = PLAIN
for _name, _shape in (("q", (0, 2, 8)), ("k", (0, 1, 8)), ("positions", (3, 0))):
    EMPTY = EMPTY.with_tensor(_name, replace(dict(PLAIN.tensors)[_name], shape=_shape))


@dataclass(frozen=True, slots=True)
class Mistake:
    """A body for the method, which may call ``right``, and a case that shows the mistake."""

    body: str
    case: Case = PLAIN
    cure: str = "return right()"


MISTAKES = {
    "values": Mistake("return right(sin=-sin)"),
    "layout": Mistake("return right(positions=positions.as_strided(positions.shape, (4, 1)))", STRIDED),
    "specials": Mistake("rotated_q, rotated_k = right(); return rotated_q.nan_to_num(), rotated_k", SPECIAL),
    "copied": Mistake("rotated_q, rotated_k = right(); return rotated_q + 0.0, rotated_k", SPECIAL),
    "metadata": Mistake("rotated_q, rotated_k = right(); return rotated_k, rotated_q"),
    "memory": Mistake("rotated = right(); positions.zero_(); return rotated", STRIDED),
    "determinism": Mistake("self.calls = getattr(self, 'calls', 0) + 1; return right(q=q + self.calls % 2)"),
    "batch_invariance": Mistake("return right(q=q * 2 if len(q) > 2 else q)"),
    "position_invariance": Mistake("return right(positions=positions[..., :1].expand_as(positions))"),
    "row_independence": Mistake("return right(positions=positions.flip(-1))"),
    "padding_invariance": Mistake("return right(k=k * 2 if len(k) > 4 else k)"),
    "scale": Mistake("return right(k=k.clamp(-1, 1))"),
    "bias": Mistake("return tuple((y.float() * (1 - 2**-7)).to(y.dtype) for y in right())", LONG),
    "state": Mistake(
        "kept = vars(type(self)).get('kept') or {'cos': cos.clone()}; type(self).kept = kept; return right(**kept)"
    ),
    "large_index": Mistake(
        "i = torch.arange(4)[:, None, None] * k.stride(0) % 2**32 + torch.arange(8);"
        " return right(k=k.as_strided((2**32 + 8,), (1,))[i])",
        FAR,
    ),
    "empty": Mistake("return right() if len(q) else (q.new_empty(0), k.new_empty(0))", EMPTY),
    "errors": Mistake(
        "return right(positions=positions.clamp(0, len(cos) - 1))", replace(PLAIN, invalid="negative position")
    ),
}

ADAPTER = '''
import torch

from conformance.selftest.fakes.correct_rotation import CorrectRotation


class Wrong(CorrectRotation):
    """Right but for one line."""

    def mrope(self, q, k, positions, cos, sin, **flags):
        given = {{"q": q, "k": k, "positions": positions, "cos": cos, "sin": sin}}

        def right(**other):
            return super(Wrong, self).mrope(*{{**given, **other}}.values(), **flags)

        {body}
'''


def _adapter(folder: Path, body: str) -> str:
    file = folder / "their_rotation.py"
    file.write_text(ADAPTER.format(body=body), encoding="utf-8")
    return f"{file}:Wrong"


@pytest.mark.parametrize("name", MISTAKES)
def test_a_script_fails_while_the_mistake_is_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It exits 1 and says what it saw; with the mistake corrected the same script exits 0."""
    mistake = MISTAKES[name]
    target = _adapter(tmp_path, mistake.body)
    subject = Subject(load(target))
    script = reproducer.write(failure_of(subject, name, mistake.case), subject, tmp_path, target)

    assert 1 == run_script(script, monkeypatch)
    assert capsys.readouterr().out.strip()

    _adapter(tmp_path, mistake.cure)
    assert 0 == run_script(script, monkeypatch)


def test_slices_of_one_buffer_stay_slices(tmp_path: Path) -> None:
    """The script lays q and k into the same buffer, and cos and sin into another."""
    target = _adapter(tmp_path, MISTAKES["layout"].body)
    subject = Subject(load(target))
    script = reproducer.write(failure_of(subject, "layout", STRIDED), subject, tmp_path, target)
    text = script.read_text(encoding="utf-8")

    assert 2 == text.count("'bfloat16 rows of 32', 128,")
    assert 2 == text.count("'bfloat16 projection', 54,")
