"""Reports of small chunks, with verdicts of every kind, and of one run over several chunks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from conformance import report
from conformance.adapter import Adapter
from conformance.calls.call import Subject
from conformance.calls.compilations import Compiled
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case, Layout, TensorSpec
from conformance.oracle.comparison import BadElement, Comparison
from conformance.oracle.histogram import Histogram, Sizes
from conformance.report import merging
from conformance.runs import journal
from conformance.runs.item import Failure, Item
from conformance.runs.waivers import Waiver, Waivers, Where

WAIVERS = Waivers((Waiver("https://example.org/1", Where(dtype=("float16",))),), (0,))
# elements, and those that had to be exact: 30 of 44, of which the share times 44 is less than 30
ELEMENTS = ((6, 5), (28, 22), (7, 0), (3, 3))
WHOLE = "conform run named"  # the command that judges all chunks
GAPS = ("contiguous", "row_gap", "contiguous", "row_gap")


class Named(Adapter):
    """An adapter with only a name and a contract, which a header shows."""

    name = "named"
    contracts = {"rms_norm": "fp32"}  # noqa: RUF012 - read only


HEADER = report.header(Subject(Named()), profile="quick", seed=3)


def _case(rows: int, kind: str, dtype: str) -> Case:
    layout = Layout(kind, 8 if kind == "row_gap" else 0)
    spec = TensorSpec((rows, 8), dtype, layout=layout)
    return Case("rms_norm", (("x", spec),), (("eps", 1e-6), ("weight_offset", 0.0)))


def _judged(chunk: int, dtype: str) -> tuple[Item, list[Verdict]]:
    """Return an item of a chunk and its verdicts: all statuses, and failures where rows have gaps."""
    item = Item("rms_norm", "values", dtype, seed=3, chunk=chunk)
    verdicts = []
    for number, ((elements, exact), kind) in enumerate(zip(ELEMENTS, GAPS, strict=True)):
        case = _case(2 + number + 10 * chunk, kind, dtype)
        if kind == "row_gap":
            bad = BadElement("y", (1, 2), 5.0, 1.0, 2.0, 3.0)
            compared = Comparison(elements, 1, exact, 2.0 + chunk, bad)
            verdicts.append(Verdict("values", case, Status.FAILED, "y[1, 2] = 5, must lie in [1, 2]", compared))
        else:
            sizes = Sizes(Histogram(chunk - 3, (chunk + 1, 2)), Histogram(-1, (3,)))
            compared = Comparison(elements, 0, exact, 0.25 + chunk / 8, sizes=sizes)
            terms = (("weight", number == 0),)
            verdicts.append(Verdict("values", case, Status.PASSED, "", compared, terms=terms))
    declined = [Verdict("values", _case(90, "contiguous", dtype), Status.DECLINED, f"why {chunk % 2}")]
    return item, verdicts + declined * (chunk + 1)


def _write(shard: journal.Journal, chunk: int) -> list[str]:
    """Write what a chunk judged, and return its items."""
    planned = []
    for dtype in ("bfloat16", "float16"):
        item, verdicts = _judged(chunk, dtype)
        planned.append(str(item))
        for verdict in verdicts:
            shard.started(item, verdict.case)
            waived = WAIVERS.applied(verdict)
            shard.judged(item, waived, WAIVERS.of(waived))
            if waived.status is Status.FAILED:
                shard.failed(Failure(item, verdict, verdict.case, "a note"), Path(f"chunks/{chunk}/repro.py"))
        shard.finished(item, (chunk, 9), Compiled(chunk + 1, 0.5, 2), chunk + 0.5)
    return planned


def report_of(folder: Path, chunks: Sequence[int], waivers: Waivers) -> report.Report:
    """Return the report of a single run over some chunks."""
    folder.mkdir()
    planned = []
    with closing(journal.Journal(folder, "main")) as shard:
        for chunk in chunks:
            planned += _write(shard, chunk)
    part = f" --chunk {chunks[0]}" if len(chunks) == 1 else ""
    header = replace(HEADER, chunks=merging.spans(chunks), command=WHOLE + part)
    return report.build(journal.read(folder), header, planned, 1.5 * len(chunks), waivers=waivers)
