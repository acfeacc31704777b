"""One row of the table: all implementations are judged on a workload, and those that pass are timed together."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks import ceilings
from benchmarks.judged import CROWD, Judgement, Values, confirmed, judge
from benchmarks.peers import OURS, PEERS, SEARCHING, SLOW_TO_BUILD
from benchmarks.results import CONTROL, PASSED, Entry, Row
from benchmarks.shapes import Workload, tokens_of
from benchmarks.timing import Timing, Uncapturable, device_times, host_times, noted
from conformance.adapter import Adapter, load
from conformance.calls.call import Subject, arguments_of
from conformance.calls.materialize import materialize, values_of
from conformance.calls.memory import POISONS
from conformance.calls.verdict import Status
from conformance.operations import OPERATIONS, Arguments

Calls = dict[str, list[Callable[[], object]]]

# together above twice what L2 holds (60 MB of an H200)
COLD_BYTES = 160 * 10**6
# this many calls last longer than a replay must; they need not be cold by their number: L2 is overwritten before
MOST_SETS = 256
# bytes from which a single set is cold by itself
ONE_SET = 10**9
NOT_INSTALLED = "not installed"
NOT_TIMED = "not timed"


@dataclass(frozen=True, slots=True)
class Effort:
    """Numbers of repetitions, and the amount of memory, of every timing.

    ``rounds`` on the device, ``host`` on the host, ``large`` there with calls that take the device long; ``sets``
    of arguments at most; ``crowd``: tokens of the batch that a single token is compared with.
    """

    rounds: int = 24
    host: int = 200
    large: int = 40
    sets: int = MOST_SETS
    crowd: int = CROWD


# for Triton's interpreter, where a call is a thousand times slower and times mean nothing
SMOKE = Effort(rounds=3, host=3, large=3, sets=2, crowd=3)


@dataclass(frozen=True, slots=True)
class Implementations:
    """The adapters that could be loaded, ours first, and the reasons why the others could not."""

    adapters: Mapping[str, Adapter]
    missing: Mapping[str, str]


def implementations(names: Sequence[str] = tuple(PEERS)) -> Implementations:
    """Load ours and the named peers."""
    adapters, missing = {OURS: load(OURS)}, {}
    for name in names:
        try:
            adapters[name] = load(PEERS[name])
        except Exception as error:  # noqa: BLE001 - a third-party package may fail to import in any way
            missing[name] = str(error).partition("\n")[0] or type(error).__name__
    return Implementations(adapters, missing)


def measure(
    workload: Workload,
    those: Implementations,
    device: str,
    effort: Effort,
    ahead: Mapping[str, Judgement] | None = None,
) -> Row:
    """Judge and time all implementations on one workload; ``ahead``: judgements from another process."""
    spent: dict[str, float] = {}
    with noted(spent, "drawing"):
        values = {name: tensor.to(device) for name, tensor in values_of(workload.case).items()}
    with noted(spent, "judging"):
        judged = _judged(workload, values, those, device, effort.crowd, ahead or {})
    entries = {name: _entry(name, judgement) for name, judgement in judged.items()}
    entries |= {name: Entry(name, NOT_INSTALLED, reason) for name, reason in those.missing.items()}
    with noted(spent, "drawing"):
        sets = set_count(workload.bytes, effort.sets)
        calls = _calls(workload, values, those, judged, device, sets)
        limits = ceilings.memory(workload.bytes, sets, device) | ceilings.launches(sets, device)
    entries, lowest = _timed(workload, calls, limits, entries, effort, spent)
    row = Row(
        workload.name,
        workload.case.operation,
        tokens_of(workload.case),
        workload.case.tensors[0][1].shape[-1],
        workload.bytes,
        workload.ceiling,
        workload.beside,
        workload.case.to_data(),
        tuple(entries.values()),
        lowest,
        {what: round(seconds, 2) for what, seconds in spent.items()},
    )
    del values, calls, limits
    let_go(device)
    return row


def _judged(
    workload: Workload,
    values: Values,
    those: Implementations,
    device: str,
    crowd: int,
    ahead: Mapping[str, Judgement],
) -> dict[str, Judgement]:
    """Return all judgements: those made ahead, confirmed if an implementation searches, and new ones."""
    found = {}
    for name, adapter in those.adapters.items():
        subject = Subject(adapter, device)
        if name in SLOW_TO_BUILD and not workload.autotuned:
            continue
        if name not in ahead:
            found[name] = judge(subject, workload, values, crowd)
        elif name in SEARCHING:
            found[name] = confirmed(subject, workload, values, ahead[name])
        else:
            found[name] = ahead[name]
    return found


def _entry(name: str, judgement: Judgement) -> Entry:
    if judgement.status is not Status.PASSED:
        return Entry(name, str(judgement.status), judgement.reason)
    in_place = bool(judgement.form)
    return Entry(name, PASSED, "", in_place, judgement.invariant, judgement.path)


def _calls(
    workload: Workload,
    values: Values,
    those: Implementations,
    judged: Mapping[str, Judgement],
    device: str,
    count: int,
) -> Calls:
    """Return the calls of all that passed, over the same sets of arguments; ours once more as a control."""
    sets = [argument_set(workload, values, device) for _ in range(count)]
    calls = {
        name: [_call(those.adapters[name], workload, judgement.form, arguments) for arguments in sets]
        for name, judgement in judged.items()
        if judgement.status is Status.PASSED
    }
    return calls | ({CONTROL: list(calls[OURS])} if OURS in calls else {})


def argument_set(workload: Workload, values: Values, device: str) -> Arguments:
    """Return the arguments of the call in memory of their own."""
    return arguments_of(materialize(workload.case, dict(values), device, POISONS[0]))


def set_count(size: int, most: int = MOST_SETS) -> int:
    """Return how many sets of ``size`` bytes a cold sequence has."""
    return 1 if size >= ONE_SET else max(2, min(-(-COLD_BYTES // size), most))


def _call(adapter: Adapter, workload: Workload, form: str, arguments: Arguments) -> Callable[[], object]:
    """Return the adapter's method bound to its arguments: the call that was judged, without wrappers."""
    operation = OPERATIONS[workload.case.operation]
    positional = [arguments[name] for name in operation.positional]
    named = {name: value for name, value in arguments.items() if name not in operation.positional}
    return functools.partial(getattr(adapter, operation.name + form), *positional, **named)


def _timed(
    workload: Workload,
    calls: Calls,
    limits: Calls,
    entries: dict[str, Entry],
    effort: Effort,
    spent: dict[str, float],
) -> tuple[dict[str, Entry], dict[str, Timing]]:
    """Return the entries with their timings, the control included, and the times of the ceilings."""
    small = workload.bytes < COLD_BYTES
    cold, refused = _recorded(calls | limits, effort.rounds, spent)
    warm = _recorded({name: each[:1] for name, each in calls.items()}, effort.rounds, spent)[0] if small else {}
    host_rounds = effort.host if small else effort.large
    with noted(spent, "timing"):
        host = host_times({name: each[0] for name, each in calls.items()}, rounds=host_rounds)
    if CONTROL in calls:
        entries[CONTROL] = replace(entries[OURS], name=CONTROL)
    for name in calls:
        entries[name] = replace(entries[name], cold=cold.get(name), warm=warm.get(name), host=host[name])
        if name in refused:
            entries[name] = replace(entries[name], status=NOT_TIMED, reason=refused[name])
    return entries, ceilings.highest({name: cold[name] for name in limits if name in cold})


def _recorded(calls: Calls, rounds: int, spent: dict[str, float]) -> tuple[dict[str, Timing], dict[str, str]]:
    """Return the device times, and the reasons why some calls cannot be recorded in a graph."""
    try:
        return device_times(calls, rounds=rounds, spent=spent), {}
    except Uncapturable as some:
        return some.timings, {name: f"no CUDA graph records it: {why}" for name, why in some.reasons.items()}


def let_go(device: str) -> None:
    """Release compiled code and memory of this row, which the next row cannot use."""
    torch.compiler.reset()
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
