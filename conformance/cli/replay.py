"""``conform replay``."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from conformance import report
from conformance.adapter import UsageError
from conformance.calls.call import Subject
from conformance.calls.claim import known
from conformance.calls.verdict import Status, Verdict
from conformance.cases.case import Case
from conformance.cli import options
from conformance.operations import OPERATIONS
from conformance.oracle.contract import in_words
from conformance.properties import PASSIVE, PROPERTIES
from conformance.properties.discovery import Evidence
from conformance.properties.passive import property_of
from conformance.runs.host import Follow, Judge
from conformance.runs.item import PROFILES, Item
from conformance.runs.judge import Answer, Ask, asked, unjudged


@click.command()
@click.argument("case")
@options.target
@options.places
@options.properties
@options.option("seed", text="Seed of the run, from which the configurations of tuned kernels are drawn.")
@options.device
@options.import_limit
@options.report_folder
def replay(
    case: str,
    target: str,
    places: tuple[str, ...],
    properties: tuple[str, ...],
    seed: int,
    device: str | None,
    import_limit: float,
    directory: Path,
) -> int:
    """Run one CASE again on TARGET, and explain: JSON text, a file, or the id of a case of the last report.

    Without TARGET the case of a report is run on what that report judged, and without a seed with its seed.
    """
    header = _header_of(case, directory)
    if header and _left_out("target"):
        words = shlex.split(header.command)
        target = words[2] if len(words) > 2 else target
    if header and _left_out("seed"):
        seed = header.seed
    chosen = options.chosen_device(device)
    options.use(places)
    options.named("--property", [name for name in properties if name not in PASSIVE], PROPERTIES)
    read = _case(case, directory)
    host = options.host(target, chosen, [read.operation], PROFILES["ci"].limit, import_limit, seed)
    subject = host.subject

    def ask(prop: str, case: Case) -> Answer:
        answer: Answer = host.ask(Judge(prop, case))
        return answer

    verdicts = _only(properties, _judged(subject, read, ask, properties))
    outside = any(verdict.comparison.outside for verdict in verdicts)
    said = host.ask(Follow(Evidence((read,)))) if outside else ""
    host.close()
    click.echo(f"{read.id}: {read}")
    contract = in_words(subject.contract(read.operation), OPERATIONS[read.operation].rounds)
    lines = [f"{subject.declared.name} declares {contract}", ""]
    lines += [f"{verdict.property:20} {verdict.status:10} {verdict.reason}".rstrip() for verdict in verdicts]
    lines += [verdict.trace for verdict in verdicts if verdict.trace][:1]
    lines += ["", said] if isinstance(said, str) and said else []
    click.echo(report.printable("\n".join(lines)))
    counts = Counter[str](verdict.status for verdict in verdicts)
    return report.exit_code(counts, complete=True)


def _left_out(parameter: str) -> bool:
    """Return whether the command line does not have a parameter."""
    return click.get_current_context().get_parameter_source(parameter) is ParameterSource.DEFAULT


def _header_of(given: str, directory: Path) -> report.Header | None:
    """Return the header of the report that has a case, which its id names; nothing where there is none."""
    path = directory / "report.json"
    if _is_text(given) or not (directory / "cases" / f"{given}.json").is_file() or not path.is_file():
        return None
    return options.read_report(path).header


def _is_text(given: str) -> bool:
    """Return whether the argument is the JSON text of a case, and names none."""
    return given.lstrip().startswith("{")


def _case(given: str, directory: Path) -> Case:
    """Return the case that a JSON text, a file or an id stands for."""
    text, place = given, "CASE"
    if not _is_text(given):
        places = (Path(given), directory / "cases" / f"{given}.json")
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            raise UsageError(f"CASE {given}: no JSON, no file, and no id in {directory / 'cases'}")
        text, place = found.read_text(encoding="utf-8"), str(found)
    try:
        case = Case.from_json(text)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from error
    known(f"{place}: operation", case.operation, OPERATIONS)
    return case


def _only(properties: Sequence[str], verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts asked for; where the calls gave none of those, all verdicts that are not passed."""
    judged = list(verdicts)
    passive = any(name in PROPERTIES and PROPERTIES[name].passive for name in properties)
    asked_for = {*properties, *(property_of(verdict.case) for verdict in judged if passive)}
    found = [verdict for verdict in judged if not properties or verdict.property in asked_for]
    return found or [verdict for verdict in judged if verdict.status is not Status.PASSED]


def _judged(subject: Subject, case: Case, ask: Ask, properties: Sequence[str]) -> Iterator[Verdict]:
    """Yield verdicts of all properties that fit the case, or of those asked for: ``values`` shows passive ones."""
    empty = not all(case.tensors[0][1].shape)
    names = ["errors"] if case.invalid else ["empty"] if empty else _of_ordinary_cases()
    if properties:
        names = [name for name in properties if name in PROPERTIES] or ["values"]
    for name in names:
        if reason := unjudged(Item(case.operation, name, case.dtype), subject):
            yield Verdict(name, case, *reason)
            continue
        yield from asked(ask, PROPERTIES[name], case)


def _of_ordinary_cases() -> list[str]:
    """Return the properties of calls that have elements and a meaning; one of those that share a judge."""
    judges = {PROPERTIES[name].judge: name for name in reversed(PROPERTIES) if name not in {"errors", "empty"}}
    return list(reversed(judges.values()))
