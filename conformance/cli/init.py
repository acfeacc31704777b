"""``conform init``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from conformance.adapter import UsageError
from conformance.cli import options
from conformance.operations import OPERATIONS
from conformance.runs import describe

SKELETON = '''\
"""Lets `conform run` judge my implementation: replace the bodies below by calls of it."""

import torch

from conformance import Adapter, Declined


class MyNorms(Adapter):
    """One method per operation; what is missing is not implemented, which is no failure."""

    name = "mynorms"
    # where the implementation rounds: fp32 (nowhere but at the store), hf, two_step, eager, or a Contract
    contracts = {"rms_norm_gated": "fp32"}
    # raises on calls without a meaning, and has gradients or refuses them: then that is demanded as well
    validates = False
    differentiable = False

    def rms_norm_gated(self, x, gate, weight, *, eps, group_size, norm_before_gate, activation):
        """norm(x) * weight * act(gate), or norm(x * act(gate)) * weight."""
        if group_size is not None:
            raise Declined("no groups")
        y = x.float()
        act = torch.ones(()) if gate is None else torch.sigmoid(gate.float())
        if gate is not None and activation != "sigmoid":
            act = act * gate.float()
        if not norm_before_gate:
            y, act = y * act, torch.ones(())
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        return (y * weight.float() * act.to(y.device)).to(x.dtype).contiguous()
'''


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--op",
    "operation",
    metavar="NAME",
    help="The operation that the adapter is for.",
    shell_complete=options.COMPLETED["op"],
)
@options.places
def init(file: Path, operation: str | None, places: tuple[str, ...]) -> None:
    """Write an adapter to FILE, to fill in. It never replaces a file, and without --op works as it stands."""
    options.use(places)
    options.named("--op", [] if operation is None else [operation], OPERATIONS)
    if file.suffix != ".py":
        raise UsageError(f"{file}: must end in .py")
    try:
        with file.open("x", encoding="utf-8") as made:
            made.write(SKELETON if operation is None else describe.adapter(operation))
    except FileExistsError as error:
        raise UsageError(f"{file}: exists already, give another name") from error
    except OSError as error:
        raise UsageError(f"{file}: cannot be written: {error.strerror}") from error
    named = "".join(f" --operations {shlex.quote(place)}" for place in places)
    click.echo(f"{file} written; fill it in, then: conform run {shlex.quote(str(file))}{named}")
