"""Scripts that reproduce a failure: a replay of its case, and for wrong numbers a script that needs only torch."""

from __future__ import annotations

import inspect
import os
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from conformance.adapter import KNOWN, split
from conformance.calls.call import Subject, arguments_of
from conformance.calls.materialize import Materials, materialize, spread, values_of
from conformance.calls.memory import POISONS
from conformance.cases.case import SHARED_PARTS, Case
from conformance.operations import OPERATIONS
from conformance.oracle.comparison import BadElement
from conformance.properties import PROMISES, PROPERTIES
from conformance.runs import outside
from conformance.runs.excerpt import excerpt
from conformance.runs.item import Failure

LITERAL = 64  # elements of a buffer that are written out; a longer buffer goes into a file next to the script
WIDTH = 100
NUMBERS = frozenset({"values", "layout", "specials", "contract"})
ENVIRONMENT = ("NORMKERNELS_PATH",)  # variables that, with the case, decide what runs
REPLAY = '''\
"""{said}
"""

{imports}
from conformance.cli import main

CASE = {case!r}
TARGET = {target}
sys.argv = ["conform", "replay", CASE, TARGET, {options}]
main()
'''
STANDALONE = '''\
"""{said}
"""
{future}
{imports}
import torch

# The implementation, as its adapter calls it. Where that needs more than these lines, call it directly here.
{code}
{tuned}

# The call, and one element of what comes out.
def main():
    {tensors}
    result = {called}({arguments})
    outputs = (result,) if isinstance(result, torch.Tensor) else tuple(result)
    got = outputs[{place}][{index}].to(torch.float64).item()
    # {note}
    lo, hi = float.fromhex({lo!r}), float.fromhex({hi!r})  # {ends}
    print({name!r}, "=", got, got.hex(), "allowed:", lo, "to", hi)
    if not (lo <= got <= hi{nan}):
        raise AssertionError(f"{{got!r}} does not lie in [{{lo!r}}, {{hi!r}}]")


main()
'''

TUNED = """
# The configurations that tuned kernels ran with: Triton would measure here, and may choose others.
from triton.runtime.autotuner import Autotuner

TUNED = {tuned}


def prune_configs(tuner, kwargs):
    chosen = TUNED.get(tuner.base_fn.__name__)
    return [config for config in tuner.configs if str(config) == chosen] or tuner.configs


Autotuner.prune_configs = prune_configs
"""


def write(
    failure: Failure,
    subject: Subject,
    directory: Path,
    target: str,
    tuned: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write the scripts of a failure of ``target`` into ``directory``, and return the path of the first.

    ``repro_<case id>.py`` replays the case; where another property failed in the same case, its name ends with the
    property. Where an element lies outside of its interval, a second script, ``…_standalone.py``, makes the call
    without the suite, with the configurations of tuned kernels that ``tuned`` names. Both exit 1 while the failure
    shows, and 0 once it does not.
    """
    verdict = failure.verdict
    path = directory / f"repro_{verdict.case.id}.py"
    text = _replay(failure, subject, directory, target)
    if path.exists() and path.read_text(encoding="utf-8").partition("\n")[0] != text.partition("\n")[0]:
        path = path.with_stem(f"{path.stem}_{verdict.property}")
    path.write_text(text, encoding="utf-8")
    bad = verdict.comparison.first
    if verdict.property in NUMBERS and bad is not None and not _far(verdict.case):
        alone = path.with_stem(f"{path.stem}_standalone")
        alone.write_text(_standalone(failure, subject, bad, alone, tuned), encoding="utf-8")
    return path


def _far(case: Case) -> bool:
    """Return whether elements of a case are too far apart for a file."""
    own = (spec for name, spec in case.tensors if case.source(name) == name)
    return any(spread(spec, spec.layout.place(spec.shape, SHARED_PARTS)) for spec in own)


def _replay(failure: Failure, subject: Subject, directory: Path, target: str) -> str:
    verdict, kind, (place, _) = failure.verdict, type(subject.implementation()), split(target)
    needs, given = f"the adapter {target}", repr(target)
    if place.endswith(".py"):
        beside = _from(directory, _file(subject))
        needs, given = f"{beside}, from the folder of this file", f"{_beside(beside)} + ':{kind.__name__}'"
    elif target not in KNOWN:
        needs, given = f"the module {place}", repr(f"{place}:{kind.__name__}")
    # as in the run, which imports modules from its folder
    folders = [Path.cwd()] if target not in KNOWN and _file(subject).is_relative_to(Path.cwd()) else []
    judged = [verdict.property]
    if verdict.property not in PROPERTIES and not PROPERTIES[failure.item.property].passive:
        judged.append(failure.item.property)  # makes the calls in which the failure showed
    seed = ["--seed", str(failure.item.seed)] if failure.item.seed else []
    options = ["--device", subject.device, *seed, *(part for name in judged for part in ("--property", name))]
    written = [*map(repr, options), *_places(directory)]
    return REPLAY.format(
        said=_said(
            failure,
            subject,
            f"Needs the suite (pip install 'normkernels[conformance]') and {needs}.",
            "Exits 1 while this shows and 0 once the property holds; 2 where the adapter cannot be imported, "
            "3 where the call is declined or cannot be judged on this machine.",
        ),
        imports=_imports(directory, folders),
        case=verdict.case.to_json(),
        target=given,
        options=", ".join(written),
    )


def _places(directory: Path) -> list[str]:
    """Return the options of a script that name the operations from outside, as Python text."""
    found = []
    for place in outside.modules():
        file = _beside(_from(directory, Path(place).absolute())) if place.endswith(".py") else repr(place)
        found += [repr("--operations"), file]
    return found


def _said(failure: Failure, subject: Subject, *needs: str) -> str:
    """Return what failed, as the text of a docstring."""
    verdict = failure.verdict
    lines = [
        f"{verdict.case.operation} of {subject.declared.name}: {verdict.property} {verdict.status}.\n",
        f"Promised: {PROMISES[verdict.property]}.",
        f"Found: {verdict.reason or verdict.status}.",
        *([f"Remark: {failure.note}."] if failure.note else []),
        f"Case {verdict.case.id}: {verdict.case}.",
        *needs,
    ]
    filled = (textwrap.wrap(line, WIDTH, break_long_words=False, break_on_hyphens=False) for line in lines)
    text = "\n".join(line for wrapped in filled for line in wrapped)
    # an implementation's own words may have any character
    plain = (c if c == "\n" or (c.isprintable() and c != "\\") else repr(c)[1:-1] for c in text)
    return "".join(plain).replace('"""', "'''").replace("\n", "\n\n", 1)


def _imports(directory: Path, folders: list[Path], environment: dict[str, str] | None = None) -> str:
    """Return a script's first lines: standard modules, the environment of the run, folders with modules."""
    settings = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | (environment or {})
    lines = [*(["import os"] if settings else []), "import sys", "from pathlib import Path", ""]
    lines += [f"os.environ[{name!r}] = {value!r}" for name, value in settings.items()]
    lines += [f"sys.path.append({_beside(_from(directory, folder))})" for folder in folders]
    return "\n".join([*lines, *([""] if lines[-1] else [])])


def _file(subject: Subject) -> Path:
    return Path(inspect.getfile(type(subject.implementation()))).absolute()


def _from(directory: Path, path: Path) -> str:
    # the parent of a link is that of the folder to which the link points
    return os.path.relpath(path, os.path.realpath(directory))


def _beside(path: str) -> str:
    return f"str(Path(__file__).parent / {path!r})"


def _standalone(
    failure: Failure, subject: Subject, bad: BadElement, script: Path, tuned: Mapping[str, str]
) -> str:
    case = failure.verdict.case
    operation = OPERATIONS[case.operation]
    materials = materialize(case, values_of(case), "cpu", POISONS[0])
    lines, saved = _tensors(materials, subject.device)
    if saved:
        torch.save(saved, script.with_suffix(".pt"))
        lines.insert(0, 'saved = torch.load(Path(__file__).with_suffix(".pt"), weights_only=True)')
    passed = {name: repr(value) for name, value in arguments_of(materials).items()}
    passed |= {name: case.source(name) for name, _ in case.tensors}
    arguments = [passed.pop(name) for name in operation.positional]
    arguments += [f"{name}={value}" for name, value in passed.items()]
    outputs = [output.name for output in operation.outputs(case)]
    place = ", ".join(map(str, bad.index))
    implementation = excerpt(subject.implementation(), case.operation)
    # folders from which modules next to an adapter's file are imported, and those in the folder of the run
    roots = [_file(subject).parent] * ("." not in type(subject.implementation()).__module__) + [Path.cwd()]
    folders = [folder for folder in dict.fromkeys(roots) if _holds(folder, implementation.packages)]
    needed = ", ".join(["torch", *implementation.packages, *([f"{script.stem}.pt"] if saved else [])])
    # as shipped, Triton's interpreter rounds low precision differently from a GPU
    interpreted = implementation.packages and subject.device == "cpu" and "triton" in sys.modules
    return STANDALONE.format(
        said=_said(
            failure,
            subject,
            f"Needs {needed}.",
            "Exits 1 while this shows and 0 once it does not; 2 where a direct call has to be put in first.",
        ),
        future="\nfrom __future__ import annotations\n" * implementation.future,
        imports=_imports(script.parent, folders, {"TRITON_INTERPRET": "1"} if interpreted else {}),
        code=implementation.code,
        tuned=TUNED.format(tuned=dict(tuned)) if tuned else "",
        tensors="\n    ".join(lines),
        called=implementation.called,
        arguments=", ".join(arguments),
        place=outputs.index(bad.output),
        index=place or "()",
        note=f"when this was written: {bad.got!r}, {bad.got.hex()}",
        lo=bad.lo.hex(),
        hi=bad.hi.hex(),
        ends=f"{bad.lo!r} to {bad.hi!r}" + ", given the other outputs as they came out" * (len(outputs) > 1),
        name=f"{bad.output}[{place}]",
        nan=" or got != got" * bad.nan,
    )


def _holds(folder: Path, packages: tuple[str, ...]) -> bool:
    """Return whether one of the packages is imported from a folder."""
    return any((folder / package).is_dir() or (folder / f"{package}.py").is_file() for package in packages)


def _tensors(materials: Materials, device: str) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Return the lines that make the tensors of a call, and the buffers that are too long for them."""
    lines: list[str] = []
    saved: dict[str, torch.Tensor] = {}
    owners = {owner.raw.untyped_storage().data_ptr(): (name, owner) for name, owner in materials.owners}
    for name, _ in materials.case.tensors:
        if materials.case.source(name) != name:
            continue
        tensor = materials.arguments[name]
        first, owner = owners[tensor.untyped_storage().data_ptr()]
        memory = owner.raw[owner.start : owner.start + owner.length].clone().view(tensor.dtype)
        if name == first and memory.numel() > LITERAL:
            saved[name] = memory
            lines.append(f"{name}_memory = saved[{name!r}].to({device!r})")
        elif name == first:
            numbers = str(memory.tolist()).replace("nan", "float('nan')").replace("inf", "float('inf')")
            filled = textwrap.wrap(numbers, WIDTH, break_on_hyphens=False)
            lines += [f"{name}_memory = torch.tensor(", *(f"    {line}" for line in filled[:-1])]
            lines += [f"    {filled[-1]},", f"    dtype={tensor.dtype}, device={device!r},", ")"]
        at = (tensor.data_ptr() - owner.raw.data_ptr() - owner.start) // tensor.itemsize if tensor.numel() else 0
        lines.append(f"{name} = {first}_memory.as_strided({tuple(tensor.shape)}, {tensor.stride()}, {at})")
    return lines, saved
