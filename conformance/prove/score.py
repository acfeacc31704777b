"""The score: what the suite kills, how soon, and by what. Pure: from rows to tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from statistics import median

from conformance.prove.rows import SAME, UNBORN, UNREACHED, UNTIL_THE_LIMIT, Row, ended

PLANTED = "planted"  # the kind of rows that are no mutants
MORE = "all"


@dataclass(frozen=True, slots=True)
class Count:
    """The fates of some mutants or bugs. ``killed`` has those that ran, by stage and lane; others never ran."""

    name: str
    judged: int
    unborn: int
    equivalent: int
    killed: dict[str, int]
    cut: int  # survived until the limit: not judged whole
    unreached: int  # run by no case
    times: tuple[float, ...]
    unseen: int = 0  # alive because nothing of them shows on a CPU
    whole: int = 0  # judged to the end, by cases that run them and can show them

    @property
    def demanded(self) -> int:
        """Return how many had to be killed: all that are not equivalent."""
        return self.judged - self.equivalent

    @property
    def dead(self) -> int:
        """Return how many were killed, by an import that fails too."""
        return self.unborn + sum(self.killed.values())


def counted(
    name: str, rows: Iterable[Row], apart: frozenset[str], cpu_apart: frozenset[str] = frozenset()
) -> Count:
    """Return the count of some rows. ``apart``: the ids of equivalent mutants, ``cpu_apart``: on a CPU."""
    last = list(ended(rows).values())
    # a mark on what was killed is out of date, and counts for nothing
    alive = [row for row in last if not row.dead and row.id not in apart and row.verdict != SAME]
    ran = [row for row in last if row.dead and row.verdict != UNBORN]
    killed: dict[str, int] = {}
    for row in ran:
        killed[step(row)] = killed.get(step(row), 0) + 1
    unborn = sum(row.verdict == UNBORN for row in last)
    seen = [row for row in alive if row.lane != "cpu" or row.id not in cpu_apart]
    cut = sum(row.why == UNTIL_THE_LIMIT for row in seen)
    unreached = sum(row.verdict == UNREACHED for row in seen)
    times = tuple(sorted(row.seconds for row in ran))
    equivalent = len(last) - len(alive) - len(ran) - unborn
    unseen, whole = len(alive) - len(seen), len(ran) + unborn + len(seen) - cut
    return Count(name, len(last), unborn, equivalent, killed, cut, unreached, times, unseen, whole)


def step(row: Row) -> str:
    """Return the stage and lane of a row, as a column of the table."""
    return f"{row.stage}, {row.lane}"


def by(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, list[Row]]:
    """Return rows by a key, in the order of the keys."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return dict(sorted(found.items()))


def table(counts: Sequence[Count], first: str) -> str:
    """Return a table in Markdown, a line for each count."""
    steps = list(dict.fromkeys(name for count in counts for name in count.killed))
    head = [
        first,
        "judged",
        "equivalent",
        "killed",
        *steps,
        "does not import",
        "alive",
        "not shown by a CPU",
        "cut off",
        "not reached",
    ]
    head += ["share", "of those judged whole", "median s", "worst s"]
    lines = [head, ["---"] * len(head)]
    for count in counts:
        alive = count.demanded - count.dead
        cells = [count.name, count.judged, count.equivalent, count.dead]
        cells += [count.killed.get(name, 0) for name in steps]
        cells += [
            count.unborn,
            alive,
            count.unseen,
            count.cut,
            count.unreached,
            percent(count.dead, count.demanded),
            percent(count.dead, count.whole),
            *_times(count.times),
        ]
        lines.append([str(cell) for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(part: int, whole: int) -> str:
    """Return a share in words; of nothing there is none."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _times(times: Sequence[float]) -> tuple[str, str]:
    return (f"{median(times):.2g}", f"{max(times):.3g}") if times else ("-", "-")


def killers(rows: Iterable[Row]) -> str:
    """Return a table of the properties by what they killed, the deadliest first."""
    dead = [row for row in ended(rows).values() if row.dead and row.by]
    found = sorted(by(dead, lambda row: row.by).items(), key=lambda each: -len(each[1]))
    lines = ["| property | mutants | planted | median s | worst s |", "|---|---|---|---|---|"]
    for name, every in found:
        planted = sum(row.kind == PLANTED for row in every)
        middle, worst = _times([row.seconds for row in every])
        lines.append(f"| {name} | {len(every) - planted} | {planted} | {middle} | {worst} |")
    return "\n".join(lines)


def part(row: Row) -> str:
    """Return the file of a mutant without the package, or the operation of a planted bug."""
    return row.function if row.kind == PLANTED else PurePath(row.file).relative_to("normkernels").as_posix()


def first_stage(rows: Iterable[Row], apart: frozenset[str], stage: str = "quick", lane: str = "cpu") -> str:
    """Return the share that one stage kills alone, in a sentence."""
    count = counted("", [row for row in rows if (row.stage, row.lane) == (stage, lane)], apart)
    share = percent(count.dead, count.demanded)
    return f"{stage} on the {lane} alone: {count.dead} of {count.demanded} killed, {share}"


def score(rows: Sequence[Row], apart: frozenset[str], cpu_apart: frozenset[str]) -> str:
    """Return the whole score in Markdown. ``cpu_apart``: equivalent on a CPU, ``apart``: anywhere."""
    said = []
    for title, first, mutants in (("Mutants", "file", True), ("Planted bugs", "operation", False)):
        own = [row for row in rows if (row.kind != PLANTED) is mutants]
        if own:
            unseen = cpu_apart if mutants else frozenset[str]()
            counts = [counted(name, every, apart, unseen) for name, every in by(own, part).items()]
            counts.append(counted(MORE, own, apart, unseen))
            lanes = {row.lane for row in own}
            quick = first_stage(own, unseen, lane="cpu" if "cpu" in lanes else "cuda")
            said += [f"## {title}", quick, table(counts, first), killers(own)]
    return "\n\n".join(said) + "\n"
