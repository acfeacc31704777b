"""Signatures of failures: the words that verdicts of one cause have in common, and how bad that is."""

from __future__ import annotations

import re
from collections.abc import Iterable

from conformance.calls.verdict import Status
from conformance.runs.explain import NOTHING_TO_COMPARE

WRONG_VALUES = "wrong values"

_VALUE = re.compile(r"\] = \S+, must (be exactly|lie in|be NaN)")
# words of the suite before those of the implementation's failure
_BEFORE = re.compile(rf"^(?:{NOTHING_TO_COMPARE}|parameters [\w ,.]+): ")
_OUTPUT = re.compile(r"^\w+(?:\[#\])? (has|is|=) ")
_PLACE = re.compile(r"(?: at |\()((?:[^\s()]+:\d+)(?:, in [^()]+)?)\)?$")
_NUMBER = re.compile(r"[-+]?\b\d[\d.,]*(?:e[+-]?\d+)?\b|\binf\b|\bnan\b")
_LIST = re.compile(r"([(\[])#(?:,? #)*,?([)\]])")


def signature(status: str, reason: str) -> str:
    """Return what verdicts of one cause have in common: the words of a reason, without numbers and elements.

    Crashes are told apart by the exception's type and the place that raised it.
    """
    reason = _BEFORE.sub("", reason)
    if status == Status.HUNG:
        return "gives no answer"
    if status == Status.CRASHED:
        first = reason.partition("\n")[0]
        place = _PLACE.search(first)
        kind, _, said = _PLACE.sub("", first).partition(":")
        if place is not None:
            return f"{kind.strip()} at {place[1]}"
        return f"{kind}: {_plain(said)}" if said else kind
    if _VALUE.search(reason):
        return WRONG_VALUES
    return _OUTPUT.sub(r"an output \1 ", _plain(reason))


def _plain(text: str) -> str:
    return _LIST.sub(r"\1#\2", _NUMBER.sub("#", text)).strip()


def severity(says: str, status: str, properties: Iterable[str]) -> int:
    """Return how bad a cause is: 0 takes the process or its memory, 1 is silently wrong, 2 raises, 3 is formal."""
    if status == Status.HUNG or says.startswith(("killed", "ended", "held")) or "memory" in set(properties):
        return 0
    if status == Status.CRASHED:
        return 2
    return 3 if says != WRONG_VALUES and FORMAL & set(properties) else 1


# promises about everything around the values
FORMAL = frozenset({"metadata", "path", "variants", "compile", "graph", "errors"})
