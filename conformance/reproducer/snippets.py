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
    for output, (name, dtype, shape) in zip(outputs, EXPECTED, strict=True):
        if output.dtype != dtype or tuple(output.shape) != shape or not output.is_contiguous():
            got = f"{output.dtype} {tuple(output.shape)} with strides {output.stride()}"
            return f"{name} is {got}, must be {dtype} {shape}, contiguous"
    return ""
'''

SAME_BITS = '''
def same_bits(a, b):
    """Whether two tensors hold the same bits; every NaN is like every other."""
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
    """Whether outputs are not what the contract allows; says where."""
    wrong = misshapen(outputs)
    if wrong:
        print(wrong)
        return True
    count = 0
    for output, (name, (lo, hi, nan)) in zip(outputs, ALLOWED.items(), strict=True):
        got = output.cpu().double()
        bad = ~((lo.double() <= got) & (got <= hi.double()) | got.isnan() & nan)
        for index in bad.nonzero().tolist()[:5]:
            at = tuple(index)
            print(f"{name}{index} = {got[at].item()!r}, allowed {lo[at].item()!r} to {hi[at].item()!r}")
        print(f"{int(bad.sum())} of {bad.numel()} elements of {name} outside")
        count += int(bad.sum())
    return count > 0
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
return outside(call(arguments()[0]))
""",
    facts=("EXPECTED", "ALLOWED"),
    functions=(SHAPED, OUTSIDE),
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
    octets = [out.contiguous().flatten()[:, None].contiguous().view(torch.uint8) for out in outputs]
    missing.append([(part == poison).all(-1) for part in octets])
count = sum(int((a & b).sum()) for a, b in zip(*missing, strict=True))
print(f"{count} elements were never written")
return count > 0
""",
    functions=(GUARDED,),
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
for name in ROW_TENSORS:
    values = TENSORS[name][-1]
    rows = torch.full_like(values, float("nan")).reshape(-1, values.shape[-1])
    rows[ROW] = values.reshape(rows.shape)[ROW]
    spoiled[name] = rows.reshape(values.shape)
for a, b in zip(call(arguments()[0]), call(arguments(**spoiled)[0]), strict=True):
    if not same_bits(*(out.reshape(-1, out.shape[-1])[ROW] for out in (a, b))):
        print(f"row {ROW} changes with the values of the other rows")
        return True
return False
""",
    facts=("ROW_TENSORS", "ROW"),
    functions=(SAME_BITS,),
)

BATCH_INVARIANCE = Check(
    """
tensors, _ = arguments()
whole = call(tensors)
rows = len(tensors[ROW_TENSORS[0]])
for count in range(1, rows):
    part = call({name: t[:count] if name in ROW_TENSORS else t for name, t in tensors.items()})
    if not all(same_bits(a[:count], b) for a, b in zip(whole, part, strict=True)):
        print(f"the first {count} rows have other bits in a batch of {rows}")
        return True
return False
""",
    facts=("ROW_TENSORS",),
    functions=(SAME_BITS,),
)

POSITION_INVARIANCE = Check(
    """
rolled = {name: torch.roll(TENSORS[name][-1], SHIFT, 0) for name in ROW_TENSORS}
for a, b in zip(call(arguments()[0]), call(arguments(**rolled)[0]), strict=True):
    if not same_bits(torch.roll(a, SHIFT, 0), b):
        print(f"rows have other bits {SHIFT} places further on")
        return True
return False
""",
    facts=("ROW_TENSORS", "SHIFT"),
    functions=(SAME_BITS,),
)

PADDING_INVARIANCE = Check(
    """
rows = len(TENSORS[ROW_TENSORS[0]][-1])
tensors, _ = arguments()
alone = call(tensors)
wrong = False
for kind in ("zeros", "NaN", "tokens"):
    padded = dict(tensors)
    for name in ROW_TENSORS:
        given = tensors[name]
        more = torch.cat([given] * (MORE // rows + 1))[:MORE].flip(0)
        if kind == "zeros" or not given.is_floating_point():
            more = torch.zeros_like(more)
        elif kind == "NaN":
            more = torch.full_like(more, float("nan"))
        padded[name] = torch.cat([given, more])
    if not all(same_bits(a, b[:rows]) for a, b in zip(alone, call(padded), strict=True)):
        print(f"the first {rows} rows have other bits with {MORE} rows of {kind} after them")
        wrong = True
return wrong
""",
    facts=("ROW_TENSORS", "MORE"),
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
for a, b, (name, _, _) in zip(plain, call(arguments(**scaled)[0]), EXPECTED, strict=True):
    if not same_bits(a * FACTOR ** SCALED_OUTPUTS[name], b):
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
for output, middle in zip(call(arguments()[0]), MIDDLES.values(), strict=True):
    got = output.cpu().double()
    ordinary = got.isfinite() & (middle.abs() >= torch.finfo(output.dtype).smallest_normal)
    error = ((got - middle) / ulp(middle, output.dtype))[ordinary]
    up += error.sum().item()
    away += (error * middle[ordinary].sign()).sum().item()
    count += error.numel()
print(f"mean error in ulp: {up / count:+.4f} upwards, {away / count:+.4f} away from zero; allowed {BOUND:.4f}")
return max(abs(up), abs(away)) / count > BOUND
""",
    facts=("MIDDLES",),
    functions=(ULP,),
)

CHAIN = Check(
    """
tensors, _ = arguments()
in_place = getattr(IMPLEMENTATION, OPERATION + "_", None)
up = away = count = worst = 0.0
for layer in range(1, LAYERS + 1):
    before = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
    outputs = call(tensors, in_place=in_place is not None)
    for place, name in CARRIED:
        tensors[name] = tensors[name] if in_place else outputs[place]
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
    facts=("OPERATION", "CARRIED"),
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
return outside(call(tensors))
""",
    facts=("EXPECTED", "NEW", "ALLOWED_AFTERWARDS"),
    functions=(SHAPED, OUTSIDE),
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
wrong = outside(call(tensors))
for name, room in rooms.items():
    if not torch.equal(room.content(), before[name]):
        print(f"the buffer of {name} was changed (elements, or bytes beside them)")
        wrong = True
return wrong
""",
    facts=("EXPECTED", "ALLOWED"),
    functions=(SHAPED, OUTSIDE),
)

VARIANTS = Check(
    """
tensors, _ = arguments()

def compiled(rows, **flags):
    given = dict(tensors)
    for name in ROW_TENSORS:
        given[name] = given[name][:1].expand(rows, *given[name].shape[1:]).contiguous()
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
    tensors = {n: t[:1].repeat(rows, *[1] * (t.dim() - 1)) if n in ROW_TENSORS else t for n, t in given.items()}
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
return outside(outputs)
""",
    facts=("EXPECTED", "ANOTHER", "ALLOWED_OF_ANOTHER"),
    functions=(SHAPED, OUTSIDE),
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
return outside(outputs)
""",
    facts=("EXPECTED", "ANOTHER", "ALLOWED"),
    functions=(SHAPED, OUTSIDE),
)

DEVICE = Check(
    """
tensors, _ = arguments()
wrong = outside(call(tensors))
there = {name: tensor.to("cuda:1") for name, tensor in tensors.items()}
outputs = call(there)
torch.cuda.synchronize("cuda:1")
print("outputs on", *(output.device for output in outputs))
return outside(outputs) or wrong or any(str(output.device) != "cuda:1" for output in outputs)
""",
    facts=("EXPECTED", "ALLOWED"),
    functions=(SHAPED, OUTSIDE),
)

PARITY = Check(
    """
try:
    torch.testing.assert_close(call(arguments()[0]), call(arguments()[0], REFERENCE), equal_nan=True)
except AssertionError as error:
    print(error)
    return True
return False
""",
    facts=("REFERENCE",),
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
path = IMPLEMENTATION.path(OPERATION, {**dict.fromkeys(NAMES), **tensors, **FLAGS})
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
    "path": PATH,
    "parity": PARITY,
    "determinism": DETERMINISM,
    "batch_invariance": BATCH_INVARIANCE,
    "position_invariance": POSITION_INVARIANCE,
    "row_independence": ROW_INDEPENDENCE,
    "empty": EMPTY,
    "errors": ERRORS,
    "padding_invariance": PADDING_INVARIANCE,
    "scale": SCALE,
    "bias": BIAS,
    "chain": CHAIN,
    "large_index": LARGE_INDEX,
    "state": STATE,
    "threads": THREADS,
    "variants": VARIANTS,
    "compile": COMPILE,
    "graph": GRAPH,
    "stream": STREAM,
    "device": DEVICE,
}
