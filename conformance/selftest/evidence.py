"""Comparison of evidence: ``python -m conformance.selftest.evidence > evidence_cpu.json``.

The script judges, in this process, right implementations that take every call, half of them, and one in fifty: all
items of ``rms_norm_gated``, in the profiles named (``quick`` and ``ci``). It prints, a row an item, how many cases
were judged, then how many verdicts were bad, and the processor's time. It ends with 1 where there is a bad one,
where a partial implementation has less than nine tenths of the cases of an item of the one that takes everything,
or where it took over 1.3 times its time. ``errors`` is shown, but not demanded: what makes
a call wrong can also be what an implementation does not take, so that it declines instead of raising. ``Half``
declines an x without a dimension, ``OneInFifty`` also an x and a weight of integers, and ``test_survey.py`` holds
that they decline no other wrong call.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch

from conformance.calls.call import Subject
from conformance.calls.verdict import BAD, Status
from conformance.properties import PASSIVE
from conformance.runs.item import PROFILES, items
from conformance.runs.judge import judge_item, surveyed, tried
from conformance.selftest.fakes.partial import Everything, Half, OneInFifty

OPERATION = "rms_norm_gated"
KINDS = (Everything, Half, OneInFifty)
SHARE = 0.9  # of the judged cases of an item
TIME = 1.3
WRONG, SECONDS = "bad verdicts", "seconds"  # rows that are no items

Found = Mapping[str, float]


def judged(kind: type[Everything], profile: str) -> Found:
    """Return how many cases of every item were judged, the bad verdicts, and the seconds, also of the survey."""
    began, subject = _time(), Subject(kind())
    found = surveyed(OPERATION, subject, partial(tried, subject), profile=profile, seed=0)
    counts, wrong = Counter[str](), 0
    for item in items(subject, profile, operations=(OPERATION,)):
        verdicts = list(judge_item(item, subject, found=found))
        own = [verdict for verdict in verdicts if verdict.property not in PASSIVE]
        counts[f"{item.property} {item.dtype}"] += sum(v.status in {Status.PASSED, *BAD} for v in own)
        wrong += sum(verdict.status in BAD for verdict in verdicts)
    return {**counts, WRONG: wrong, SECONDS: round(_time() - began, 1)}


def _time() -> float:
    """Return the processor time, including ended children: unlike clocks it excludes other processes."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def table(profile: str, found: Mapping[str, Found]) -> Iterator[dict[str, str | float]]:
    """Yield the rows of a profile, for implementations by name."""
    for name in next(iter(found.values())):
        yield {"profile": profile, "item": name, **{kind: counts[name] for kind, counts in found.items()}}


def lacking(found: Mapping[str, Found]) -> list[str]:
    """Return the faults of the implementations, of which the first takes everything."""
    (first, whole), *parts = found.items()
    amiss = [f"{kind}: {counts[WRONG]:g} bad verdicts" for kind, counts in found.items() if counts[WRONG]]
    for kind, counts in parts:
        for name, least in ((name, SHARE * count) for name, count in whole.items()):
            # what makes a call wrong may be what is not taken: the call is declined before that
            if name not in {WRONG, SECONDS} and not name.startswith("errors ") and counts[name] < least:
                amiss.append(f"{kind}: {counts[name]:g} cases of {name}, {first} has {whole[name]:g}")
        if counts[SECONDS] > TIME * whole[SECONDS]:
            amiss.append(f"{kind}: {counts[SECONDS]:g} s, {first} took {whole[SECONDS]:g}")
    return amiss


def main(profiles: Sequence[str]) -> int:
    """Judge in each profile, and print the table as JSON, a row a line."""
    unknown = [name for name in profiles if name not in PROFILES]
    if unknown:
        said = f"evidence: {unknown[0]} is no profile, must be one of {', '.join(PROFILES)}"
        print(said, file=sys.stderr)  # noqa: T201
        return 2
    torch.set_num_threads(1)
    rows, amiss = [], []
    for profile in profiles or ("quick", "ci"):
        found = {kind.__name__: judged(kind, profile) for kind in KINDS}
        rows += [json.dumps(row) for row in table(profile, found)]
        amiss += [f"{profile}: {said}" for said in lacking(found)]
    print("[\n" + ",\n".join(rows) + "\n]")  # noqa: T201
    print("".join(f"{said}\n" for said in amiss), end="", file=sys.stderr)  # noqa: T201
    return int(bool(amiss))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
