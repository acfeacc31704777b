"""What reproducers are made of: functions that several share, and the check of every property.

Snippets run in the script, not here: they know torch and the names that a script defines (``TENSORS``, ``FLAGS``,
``DEVICE``, ``IMPLEMENTATION``), and what a check asks for in ``facts``.
"""

from __future__ import annotations

from dataclasses import dataclass

UNPACKED = '''
def unpacked(text, dtype, shape):
    """Compressed bytes as a tensor."""
    raw = bytearray(zlib.decompress(base64.b64decode(text)))
    return torch.frombuffer(raw, dtype=torch.uint8).view(dtype).reshape(shape)
'''

ROOM = '''
def room(length, poison):
    """A buffer full of ``poison``, and ``length`` bytes in the middle of it."""
    raw = torch.full((length + 1024,), poison, dtype=torch.uint8, device=DEVICE)
    return raw, raw[512 : 512 + length]
'''

# a stray access that kills a process in the suite would go unseen in ordinary memory
FENCED_ROOM = '''
def room(length, poison):
    """A buffer full of ``poison`` up to memory that kills who touches it, and ``length`` bytes of it."""
    owner = Owner.of(length, DEVICE, poison)
    return owner.raw, owner.raw[owner.start : owner.start + length]
'''

ARGUMENTS = '''
def arguments(poison=0xFF, **other_values):
    """The tensors of the call and the buffers that they lie in, which hold ``poison`` everywhere else."""
    tensors, buffers = {}, {}
    for name, (buffer, length, offset, strides, values) in TENSORS.items():
        values = other_values.get(name, values).to(DEVICE)
        if buffer not in buffers:
            buffers[buffer] = room(length * values.element_size(), poison)
        inside = buffers[buffer][1].view(values.dtype)
        begin = inside.storage_offset() + offset
        tensors[name] = inside.as_strided(values.shape, strides, begin)
        places = torch.arange(length, device=DEVICE).as_strided(values.shape, strides, offset)
        inside[places] = values
    return tensors, {name: raw for name, (raw, _) in buffers.items()}
'''

# of tensors whose buffer would be gigabytes for next to no elements
FAR_ARGUMENTS = '''
def arguments(poison=0xFF):
    """The tensors of the call, and the rooms that they lie in: on a CPU there is no memory between elements."""
    tensors, rooms = {}, {}
    for name, (_, length, offset, strides, values) in TENSORS.items():
        places = torch.tensor(offset)
        for size, stride in zip(values.shape, strides, strict=True):
            places = places[..., None] + torch.arange(size) * stride
        width = values.element_size()
        rooms[name] = Owner.spread(places * width, length * width, DEVICE, poison)
        inside = rooms[name].raw.view(values.dtype)
        tensors[name] = inside.as_strided(values.shape, strides, inside.storage_offset() + offset)
        tensors[name].copy_(values)
    return tensors, rooms
'''

SHAPED = '''
def misshapen(outputs):
    """What is wrong with the number, shapes, dtypes and strides of the outputs, or nothing."""
    if len(outputs) != len(EXPECTED):
        return f"returned {len(outputs)} tensors, must be {len(EXPECTED)}"
    for output, (name, dtype, shape, columns) in zip(outputs, EXPECTED, strict=True):
        if output.dtype != dtype or tuple(output.shape) != shape or not placed(output, columns):
            got = f"{output.dtype} {tuple(output.shape)} with strides {output.stride()}"
            return f"{name} is {got}, must be {dtype} {shape}, {'column by column' if columns else 'contiguous'}"
    return ""


def placed(output, columns):
    """Whether an output is contiguous, or each of its columns where that was asked for."""
    if not columns or not output.numel():
        return output.is_contiguous()
    first = output.select(-1, 0)
    return first.is_contiguous() and (output.shape[-1] == 1 or output.stride(-1) >= first.numel())
'''

SAME_BITS = '''
def same_bits(a, b):
    """Whether two tensors hold the same bits; every NaN is like every other."""
    if a.dtype.itemsize == 1:
        a, b = a.float(), b.float()
    return bool(((a == b) & (a.signbit() == b.signbit()) | (a.isnan() & b.isnan())).all())
'''

# what the call allocates is judged too: fresh memory is poisoned, and its surroundings must stay as they are
GUARDED = '''
class Guarded(TorchDispatchMode):
    """Gives torch.empty and the like memory that lies in a buffer full of poison."""

    def __init__(self, poison):
        super().__init__()
        self.poison = poison
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        fresh = "empty" in func.overloadpacket.__name__ and made.device.type == DEVICE
        if not fresh or not made.numel():
            return made
        reach = 1 + sum((size - 1) * stride for size, stride in zip(made.shape, made.stride(), strict=True))
        raw, inside = room(reach * made.element_size(), self.poison)
        self.made.append((raw, inside))
        inside = inside.view(made.dtype)
        return inside.as_strided(made.shape, made.stride(), inside.storage_offset())

    def damaged(self):
        """Whether something beside the allocations was written."""
        for raw, inside in self.made:
            begin = inside.storage_offset()
            outside = torch.cat([raw[:begin], raw[begin + inside.numel() :]])
            if (outside != self.poison).any():
                return True
        return False
'''

CHANGED = '''
def changed(buffers, before):
    """Names of the buffers that are not as they were."""
    return [name for name, raw in buffers.items() if not torch.equal(raw, before[name])]
'''


OUTSIDE = '''
def outside(outputs):
    """Whether elements of the outputs are not what the contract allows; shows the first."""
    total = 0
    for output, (name, (lo, hi, nan)) in zip(outputs, ALLOWED.items(), strict=True):
        got = output.cpu().double()
        bad = ~((lo.double() <= got) & (got <= hi.double()) | got.isnan() & nan)
        for index in bad.nonzero().tolist()[:5]:
            at = tuple(index)
            print(f"{name}{index} = {got[at].item()!r}, allowed {lo[at].item()!r} to {hi[at].item()!r}")
        print(f"{int(bad.sum())} of {bad.numel()} elements of {name} outside")
        total += int(bad.sum())
    return total > 0
'''

AMISS = '''
def amiss(outputs):
    """Whether outputs are not what is documented, or not what the contract allows."""
    wrong = misshapen(outputs)
    if wrong:
        print(wrong)
    return bool(wrong) or outside(outputs)
'''

ULP = '''
def ulp(values, dtype):
    """The distance from each of some float64 values to its neighbour away from zero."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(values.abs().clamp(min=info.smallest_normal)).exponent
    return torch.ldexp(torch.full_like(values, info.eps), exponent - 1)
'''


@dataclass(frozen=True, slots=True)
class Check:
    """How one property is checked: the data that it needs, functions, the body of ``main``.

    ``main`` returns whether the failure shows.
    """

    main: str
    facts: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()


WITHIN = Check(
    """
return amiss(call(arguments()[0]))
""",
    facts=("EXPECTED", "ALLOWED"),
    functions=(SHAPED, OUTSIDE, AMISS),
)

METADATA = Check(
    """
wrong = misshapen(call(arguments()[0]))
print(wrong or "number, dtypes, shapes and strides are as documented")
return bool(wrong)
""",
    facts=("EXPECTED",),
    functions=(SHAPED,),
)

EMPTY = Check(
    """
tensors, buffers = arguments()
before = {name: raw.clone() for name, raw in buffers.items()}
with Guarded(0xFF) as memory:
    outputs = call(tensors)
wrong = misshapen(outputs)
if changed(buffers, before) or memory.damaged():
    wrong = "memory was written"
print(wrong or "number, dtypes, shapes and strides are as documented, nothing is written")
return bool(wrong)
""",
    facts=("EXPECTED",),
    functions=(SHAPED, GUARDED, CHANGED),
)

MEMORY = Check(
    """
wrong, results = False, []
for poison in (0xFF, 0x7B):
    tensors, buffers = arguments(poison)
    before = {name: raw.clone() for name, raw in buffers.items()}
    with Guarded(poison) as memory:
        results.append(call(tensors))
    for name in changed(buffers, before):
        print(f"the buffer of {name} was changed (elements, gaps between them, or bytes beside them)")
        wrong = True
    if memory.damaged():
        print("memory beside an allocation of the call was written")
        wrong = True
    if {out.untyped_storage().data_ptr() for out in results[-1]} & {
        raw.untyped_storage().data_ptr() for raw in buffers.values()
    }:
        print("an output is a view of an argument")
        wrong = True
if len({out.untyped_storage().data_ptr() for outputs in results for out in outputs}) < sum(map(len, results)):
    print("two outputs lie in the same memory")
    wrong = True
if not all(same_bits(a, b) for a, b in zip(*results, strict=True)):
    print("the result changes with what lies beside the arguments or in fresh memory")
    wrong = True
return wrong
""",
    functions=(SAME_BITS, GUARDED, CHANGED),
)

WRITTEN = Check(
    """
missing = []
for poison in (0xFF, 0x7B):
    with Guarded(poison):
        outputs = call(arguments(poison)[0])
    flat = [out.flatten().clone(memory_format=torch.contiguous_format) for out in outputs]
    octets = [part.view(torch.uint8).reshape(part.numel(), -1) for part in flat]
    missing.append([(part == poison).all(-1) for part in octets])
count = sum(int((a & b).sum()) for a, b in zip(*missing, strict=True))
print(f"{count} elements were never written")
return count > 0
""",
    functions=(GUARDED,),
)

COPIED = Check(
    """
changed = 0
for output, (name, (where, values)) in zip(call(arguments()[0]), COPIED.items(), strict=True):
    bits = torch.int16 if values.element_size() == 2 else torch.int32
    other = (output.cpu().contiguous().view(bits) != values.view(bits)) & where
    print(f"{int(other.sum())} of {int(where.sum())} copied elements of {name} have other bits")
    changed += int(other.sum())
return changed > 0
""",
    facts=("COPIED",),
)

STATE_LEFT_BEHIND = Check(
    """
before = captured()
call(arguments()[0])
changed = differences(before, captured())
print("the call changed", "; ".join(changed) or "nothing")
return bool(changed)
""",
)

DETERMINISM = Check(
    """
results = [call(arguments()[0]) for _ in range(20)]
first = [out.clone() for out in results[0]]
others = [call(arguments()[0]) for _ in range(20)]
later = sum(not all(map(same_bits, first, outputs)) for outputs in others)
print(f"{later} of {len(others)} further calls give other bits than the first")
kept = all(map(same_bits, first, results[0]))
print("the first result is", "still what it was" if kept else "changed by a later call")
return later > 0 or not kept
""",
    functions=(SAME_BITS,),
)

ROW_INDEPENDENCE = Check(
    """
spoiled = {}
for name, axis in ROW_TENSORS.items():
    values = TENSORS[name][-1].contiguous()
    other = torch.full_like(values, float("nan") if values.is_floating_point() else 0)
    other.movedim(axis, 0).view(ROWS, -1)[ROW] = values.movedim(axis, 0).reshape(ROWS, -1)[ROW]
    spoiled[name] = other
for a, b in zip(call(arguments()[0]), call(arguments(**spoiled)[0]), strict=True):
    if not same_bits(*(out.reshape(ROWS, -1)[ROW] for out in (a, b))):
        print(f"row {ROW} changes with the values of the other rows")
        return True
return False
""",
    facts=("ROW_TENSORS", "ROWS", "ROW"),
    functions=(SAME_BITS,),
)

BATCH_INVARIANCE = Check(
    """
tensors, _ = arguments()
whole = call(tensors)
for count in range(1, ROWS):
    first = {name: tensors[name].narrow(axis, 0, count) for name, axis in ROW_TENSORS.items()}
    part = call({**tensors, **first})
    if not all(same_bits(a[:count], b) for a, b in zip(whole, part, strict=True)):
        print(f"the first {count} rows have other bits in a batch of {ROWS}")
        return True
return False
""",
    facts=("ROW_TENSORS", "ROWS"),
    functions=(SAME_BITS,),
)

POSITION_INVARIANCE = Check(
    """
rolled = {name: torch.roll(TENSORS[name][-1], SHIFT, axis) for name, axis in ROW_TENSORS.items()}
for a, b in zip(call(arguments()[0]), call(arguments(**rolled)[0]), strict=True):
    if not same_bits(torch.cat([a[-SHIFT:], a[:-SHIFT]]), b):
        print(f"rows have other bits {SHIFT} places further on")
        return True
return False
""",
    facts=("ROW_TENSORS", "SHIFT"),
    functions=(SAME_BITS,),
)

PADDING_INVARIANCE = Check(
    """
tensors, _ = arguments()
alone = call(tensors)
wrong = False
for kind in ("zeros", "NaN", "tokens"):
    padded = dict(tensors)
    for name, axis in ROW_TENSORS.items():
        given = tensors[name]
        more = torch.cat([given] * (MORE // ROWS + 1), axis).narrow(axis, 0, MORE).flip(axis)
        if kind == "zeros" or kind == "NaN" and not given.is_floating_point():
            more = torch.zeros_like(more)
        elif kind == "NaN":
            more = torch.full_like(more, float("nan"))
        padded[name] = torch.cat([given, more], axis)
    if not all(same_bits(a, b[:ROWS]) for a, b in zip(alone, call(padded), strict=True)):
        print(f"the first {ROWS} rows have other bits with {MORE} rows of {kind} after them")
        wrong = True
return wrong
""",
    facts=("ROW_TENSORS", "ROWS", "MORE"),
    functions=(SAME_BITS,),
)

SCALE = Check(
    """
plain = call(arguments()[0])
scaled = {}
for name, power in SCALED_ARGUMENTS.items():
    if name in TENSORS:
        scaled[name] = TENSORS[name][-1] * FACTOR**power
    elif name in FLAGS:
        FLAGS[name] *= FACTOR**power
wrong = False
for a, b, (name, *_) in zip(plain, call(arguments(**scaled)[0]), EXPECTED, strict=True):
    factor = FACTOR ** SCALED_OUTPUTS[name]
    if factor != 1:
        # below the smallest normal number a store has fewer bits
        edge = torch.finfo(a.dtype).smallest_normal
        lower, upper = torch.minimum(a.abs(), b.abs()), torch.maximum(a.abs(), b.abs())
        fewer = (lower < edge) & (upper <= edge * max(factor, 1 / factor))
        a, b = (a * factor).masked_fill(fewer, 0), b.masked_fill(fewer, 0)
    if not same_bits(a, b):
        print(f"{name} has other bits where the arguments are scaled by {FACTOR}")
        wrong = True
return wrong
""",
    facts=("EXPECTED", "SCALING"),
    functions=(SAME_BITS,),
)

BIAS = Check(
    """
up = away = count = 0.0
for output, (name, *_) in zip(call(arguments()[0]), EXPECTED, strict=True):
    if name not in MIDDLES:
        continue
    got, middle = output.cpu().double(), MIDDLES[name]
    ordinary = got.isfinite() & (middle.abs() >= torch.finfo(output.dtype).smallest_normal)
    error = ((got - middle) / ulp(middle, output.dtype))[ordinary]
    up += error.sum().item()
    away += (error * middle[ordinary].sign()).sum().item()
    count += error.numel()
print(f"mean error in ulp: {up / count:+.4f} upwards, {away / count:+.4f} away from zero; allowed {BOUND:.4f}")
return max(abs(up), abs(away)) / count > BOUND
""",
    facts=("EXPECTED", "MIDDLES"),
    functions=(ULP,),
)

CHAIN = Check(
    """
tensors, _ = arguments()
up = away = count = worst = 0.0
for layer in range(1, LAYERS + 1):
    before = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
    outputs = call(tensors)
    for place, name in CARRIED:
        tensors[name] = tensors[name] if IN_PLACE else outputs[place]
        exact = before["x"].double() + before[name].double()
        error = (tensors[name].cpu().double() - exact) / ulp(exact, tensors[name].dtype)
        worst = max(worst, error.abs().nan_to_num(float("inf")).max().item())
        up += error.sum().item()
        away += (error * exact.sign()).sum().item()
        count += error.numel()
    x = before["x"].flatten()
    tensors["x"].copy_(torch.roll(x, layer).reshape(before["x"].shape))
print(f"{LAYERS} sums, {worst:.4g} ulp off at most, must be 0.5")
print(f"mean error in ulp: {up / count:+.4f} upwards, {away / count:+.4f} away from zero; allowed {DRIFT:.4f}")
return not worst <= 0.5 + 2**-8 or max(abs(up), abs(away)) / count > DRIFT
""",
    facts=("CARRIED",),
    functions=(ULP,),
)

STATE = Check(
    """
tensors, _ = arguments()
call(tensors)
for name, values in NEW.items():
    buffer, length, offset, strides, _ = TENSORS[name]
    inside = room(length * values.element_size(), 0xFF)[1].view(values.dtype)
    other = inside.as_strided(values.shape, strides, inside.storage_offset() + offset)
    tensors[name] = change(tensors[name], other.copy_(values))
return amiss(call(tensors))
""",
    facts=("EXPECTED", "NEW", "ALLOWED_AFTERWARDS"),
    functions=(SHAPED, OUTSIDE, AMISS),
)

KEPT_RESULTS = Check(
    """
tensors, _ = arguments()
outputs = call(tensors)
for name, places, numbers in STEPS:
    for place, number in zip(places, numbers, strict=True):
        tensors[name].data[place] = number
    outputs = call(tensors)
return amiss(outputs)
""",
    facts=("EXPECTED", "STEPS"),
    functions=(SHAPED, OUTSIDE, AMISS),
)

THREADS = Check(
    """
def moved(number):
    values = {name: entry[-1] for name, entry in TENSORS.items()}
    return arguments(**{n: torch.roll(v.flatten(), number).reshape(v.shape) for n, v in values.items()})[0]

inputs = [moved(number) for number in range(8)]
alone = [[out.clone() for out in call(tensors)] for tensors in inputs]
wrong = 0
for _ in range(20):
    start, found = threading.Barrier(8), [None] * 8

    def run(number):
        start.wait()
        found[number] = call(inputs[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wrong += sum(not all(map(same_bits, *pair)) for pair in zip(alone, found, strict=True))
print(f"{wrong} of 160 calls in 8 threads have other bits than alone")
return wrong > 0
""",
    functions=(SAME_BITS,),
)

LARGE_INDEX = Check(
    """
tensors, rooms = arguments()
before = {name: room.content() for name, room in rooms.items()}
wrong = amiss(call(tensors))
for name, room in rooms.items():
    if not torch.equal(room.content(), before[name]):
        print(f"the buffer of {name} was changed (elements, or bytes beside them)")
        wrong = True
return wrong
""",
    facts=("EXPECTED", "ALLOWED"),
    functions=(SHAPED, OUTSIDE, AMISS),
)

VARIANTS = Check(
    """
tensors, _ = arguments()

def compiled(rows, **flags):
    given = dict(tensors)
    for name, axis in ROW_TENSORS.items():
        given[name] = torch.cat([given[name].narrow(axis, 0, 1)] * rows, axis)
    before = dict(FLAGS)
    FLAGS.update(flags)
    with watched(DEVICE, 0xFF) as record:
        call(given)
    FLAGS.update(before)
    return record.variants

rows = set().union(*(compiled(count) for count in COUNTS))
print(f"{len(rows)} kernels are compiled for {len(COUNTS)} numbers of rows, {ALLOWED} would do")
if "eps" not in FLAGS:
    return len(rows) > ALLOWED
eps = set().union(*(compiled(1, eps=eps) for eps in EPS))
print(f"{len(eps)} kernels are compiled for {len(EPS)} values of eps, {len(compiled(1))} would do")
return len(rows) > ALLOWED or len(eps) > len(compiled(1))
""",
    facts=("ROW_TENSORS", "COUNTS"),
)

COMPILE = Check(
    """
graphs = []

def backend(graph, inputs):
    graphs.append(graph)
    return lookup_backend("aot_eager" if DEVICE == "cpu" else "inductor")(graph, inputs)

wrong = False
compiled = torch.compile(call, fullgraph=True, backend=backend)
given, _ = arguments()
for rows in (5, 7, 12):
    tensors = dict(given)
    for name, axis in ROW_TENSORS.items():
        tensors[name] = torch.cat([given[name].narrow(axis, 0, 1)] * rows, axis)
    expected = call(tensors)
    try:
        found = compiled(tensors)
    except Exception as error:
        print(f"compiled, a call with {rows} rows raises {error!r}")
        return True
    same = [(t.shape, t.dtype, t.stride()) for t in expected] == [(t.shape, t.dtype, t.stride()) for t in found]
    if not same or not all(map(same_bits, expected, found)):
        print(f"compiled, a call with {rows} rows gives another result")
        wrong = True
print(f"{len(graphs)} graphs for 3 numbers of rows, 2 would do")
return wrong or len(graphs) > 2
""",
    facts=("ROW_TENSORS",),
    functions=(SAME_BITS,),
)

# the three that follow need a GPU
GRAPH = Check(
    """
tensors, _ = arguments()
side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    call(tensors)
torch.cuda.synchronize()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    outputs = call(tensors, wait=False)
for name, values in ANOTHER.items():
    tensors[name].copy_(values)
graph.replay()
torch.cuda.synchronize()
return amiss(outputs)
""",
    facts=("EXPECTED", "ANOTHER", "ALLOWED_OF_ANOTHER"),
    functions=(SHAPED, OUTSIDE, AMISS),
)

STREAM = Check(
    """
tensors, _ = arguments(**{name: values.to(DEVICE) for name, values in ANOTHER.items()})
values = {name: entry[-1].to(DEVICE) for name, entry in TENSORS.items()}
call(tensors)
side = torch.cuda.Stream()
with torch.cuda.stream(side):
    torch.cuda._sleep(50_000_000)
    for name, tensor in tensors.items():
        tensor.copy_(values[name])
    outputs = call(tensors, wait=False)
side.synchronize()
return amiss(outputs)
""",
    facts=("EXPECTED", "ANOTHER", "ALLOWED"),
    functions=(SHAPED, OUTSIDE, AMISS),
)

DEVICE = Check(
    """
tensors, _ = arguments()
wrong = amiss(call(tensors))
there = {name: tensor.to("cuda:1") for name, tensor in tensors.items()}
outputs = call(there)
torch.cuda.synchronize("cuda:1")
print("outputs on", *(output.device for output in outputs))
return amiss(outputs) or wrong or any(str(output.device) != "cuda:1" for output in outputs)
""",
    facts=("EXPECTED", "ALLOWED"),
    functions=(SHAPED, OUTSIDE, AMISS),
)

PARITY = Check(
    """
try:
    assert_alike(call(arguments()[0]), call(arguments()[0], REFERENCE), DTYPE)
except AssertionError as error:
    print(error)
    return True
return False
""",
    facts=("REFERENCE", "DTYPE"),
)

IN_PLACE = Check(
    """
wrong, results = False, []
for poison in (0xFF, 0x7B):
    tensors, buffers = arguments(poison)
    before = {name: raw.clone() for name, raw in buffers.items()}
    versions = {name: tensors[name]._version for name in OVER if name}
    with Guarded(poison) as memory:
        returned = call(tensors)
    for name, version in versions.items():
        if tensors[name]._version == version:
            print(f"{name} is still at version {version} after it was written")
            wrong = True
    # where every output has an argument to lie over, nothing need be returned
    if len(returned) != len(OVER) and (returned or None in OVER):
        print(f"returned {len(returned)} tensors, must be {len(OVER)}")
        return True
    over = [returned[place] if name is None else tensors[name] for place, name in enumerate(OVER)]
    # outputs are contiguous, arguments need not be
    results.append([t.contiguous().clone() if name else t for t, name in zip(over, OVER, strict=True)])
    places = [[(t.data_ptr(), t.shape, t.stride(), t.dtype) for t in these] for these in (over, returned)]
    if returned and places[0] != places[1]:
        print("returned other tensors than the arguments")
        wrong = True
    # with the arguments put back, whatever else differs from before is damage
    for name in filter(None, OVER):
        tensors[name].copy_(TENSORS[name][-1])
    for name in changed(buffers, before):
        print(f"the buffer of {name} was changed beside the results")
        wrong = True
    if memory.damaged():
        print("memory beside an allocation of the call was written")
        wrong = True
if not all(map(same_bits, *results)):
    print("the result changes with what lies beside the arguments or in fresh memory")
    wrong = True
if DETERMINISTIC and not all(map(same_bits, results[0], fresh(arguments()[0]))):
    print("the functional form gives other bits")
    wrong = True
return amiss(results[0]) or wrong
""",
    facts=("EXPECTED", "ALLOWED", "OVER"),
    functions=(SHAPED, OUTSIDE, AMISS, SAME_BITS, GUARDED, CHANGED),
)

ERRORS = Check(
    """
tensors, buffers = arguments()
before = {name: raw.clone() for name, raw in buffers.items()}
try:
    call(tensors)
except Exception as error:
    print(f"raised {error!r}")
    names = changed(buffers, before)
    print(f"and wrote to {names}" if names else "and wrote nothing")
    return bool(names)
print("accepted, must raise")
return True
""",
    functions=(CHANGED,),
)

PATH = Check(
    """
tensors, _ = arguments()
with watched(DEVICE, 0xFF) as record:
    outputs = call(tensors)
given = {name: tensors.get(passed) for name, passed in NAMES.items()}
path = IMPLEMENTATION.path(OPERATION, {**given, **FLAGS})
print(f"path {path!r}; launched {record.launches or 'nothing'}; copied {record.copies or 'nothing'}")
if path.startswith("native"):
    return bool(record.launches)
return bool(record.copies) or not record.launches and any(out.numel() for out in outputs)
""",
    facts=("OPERATION", "NAMES"),
)

RAISED = Check(
    """
# an exception says it all
call(arguments()[0])
print("returned")
return False
""",
)

KILLED = Check(
    """
# only a process that survives comes to the second line
with Guarded(0xFF):
    call(arguments()[0])
print("returned")
return False
""",
    functions=(GUARDED,),
)

HELD = '''
def held():
    """The physical memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
'''

LEAKED = Check(
    """
tensors, _ = arguments()
before = held()
for calls in range(1, 1001):
    call(tensors)
    # far more than allocators keep for themselves
    if held() - before > 64 * 2**20:
        print(f"{calls} calls left {(held() - before) / 2**20:.0f} MiB behind")
        return True
print(f"{calls} calls left {(held() - before) / 2**20:.0f} MiB behind")
return False
""",
    functions=(HELD,),
)

HUNG = Check(
    """
# ends the process with a traceback of where it hangs
faulthandler.dump_traceback_later(LIMIT, exit=True)
call(arguments()[0])
faulthandler.cancel_dump_traceback_later()
print("returned")
return False
""",
    facts=("LIMIT",),
)

CHECKS = {
    "values": WITHIN,
    "layout": WITHIN,
    "specials": WITHIN,
    "contract": WITHIN,
    "metadata": METADATA,
    "memory": MEMORY,
    "written": WRITTEN,
    "copied": COPIED,
    "path": PATH,
    "state_left_behind": STATE_LEFT_BEHIND,
    "parity": PARITY,
    "determinism": DETERMINISM,
    "batch_invariance": BATCH_INVARIANCE,
    "position_invariance": POSITION_INVARIANCE,
    "row_independence": ROW_INDEPENDENCE,
    "in_place": IN_PLACE,
    "empty": EMPTY,
    "errors": ERRORS,
    "padding_invariance": PADDING_INVARIANCE,
    "scale": SCALE,
    "bias": BIAS,
    "chain": CHAIN,
    "large_index": LARGE_INDEX,
    "state": STATE,
    "kept_results": KEPT_RESULTS,
    "threads": THREADS,
    "variants": VARIANTS,
    "compile": COMPILE,
    "graph": GRAPH,
    "stream": STREAM,
    "device": DEVICE,
}
