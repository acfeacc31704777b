"""``conform list``."""

from __future__ import annotations

import click

from conformance.adapter import KNOWN
from conformance.cli import options
from conformance.operations import OPERATIONS
from conformance.oracle.contract import NAMED, Contract, in_braces
from conformance.properties import PROMISES
from conformance.runs import describe
from conformance.runs.item import PROFILES


@click.command(name="list")
@click.argument(
    "name", metavar="[OPERATION|ADAPTER]", required=False, shell_complete=options.completing(OPERATIONS, KNOWN)
)
@options.places
def listing(name: str | None, places: tuple[str, ...]) -> None:
    """Operations, properties with their promise, known adapters with their package, contracts, profiles.

    Of one OPERATION: the method to write with its arguments, rounding points, the words of a claim, what a wrong
    formula may lack. Of one known ADAPTER: by operation its contract and the calls that it takes.
    """
    options.use(places)
    if name in KNOWN:
        click.echo(f"{name}: {describe.implementation(name)}\n")
        _section("takes", describe.claims(name))
        return
    if name is not None:
        operation = name
        options.named("OPERATION", [operation], {**OPERATIONS, **KNOWN})
        click.echo(f"{describe.method(operation)}\n")
        _section("arguments", describe.arguments(operation))
        _section("rounding points", {"at": describe.points(operation)})
        _section("takes, by factor or size", describe.claimed_with(operation))
        _section("judged as well", {"terms": describe.terms(operation)})
        return
    _section("operations", {name: _signature(name) for name in OPERATIONS})
    _section("properties", PROMISES)
    _section("adapters", {known: describe.implementation(known) for known in KNOWN})
    named = {name: in_braces(Contract(rounds), sorted(rounds)) for name, rounds in NAMED.items()}
    _section("contracts", {**named, "eager": "every point of the operation"})
    _section("profiles", {name: _effort(name) for name in PROFILES})


def _section(title: str, lines: dict[str, str]) -> None:
    click.echo(f"{title}:")
    for name, text in lines.items():
        click.echo(f"  {name:20} {text}")


def _signature(name: str) -> str:
    operation = OPERATIONS[name]
    arguments = ", ".join((*operation.positional, *operation.keywords))
    return f"{arguments}; wrong in {len(operation.invalid)} ways on purpose"


def _effort(name: str) -> str:
    profile = PROFILES[name]
    return f"every {profile.strength} levels together, a call may take {profile.limit:g} s"
