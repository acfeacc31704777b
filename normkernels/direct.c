/* What is left of a call like an earlier one: look at its tensors, make its outputs, start its kernel.
 *
 * Start is a kernel that Triton has launched, with all that it was given but pointers and counts. Shortcut is a
 * call: what its arguments must be, and which of their pointers and sizes a Start takes. Nothing here knows an
 * operation, and nothing raises for what it cannot do: it returns None or False, and Python goes the long way.
 *
 * Triton compiles this file as it compiles its own launcher. It needs no header of CUDA's: cuLaunchKernel comes as
 * an address, and is declared below as the CUDA driver API documents it.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>

#define MAX_PARAMETERS 48
#define MAX_POINTERS 12
#define MAX_COUNTS 4
#define MAX_SLOTS 8
#define MAX_NEW 4
#define MAX_SETTINGS 12
#define ALIGNMENT 16
/* Triton passes larger integers as another type, that is, to another kernel. */
#define INT32 ((int64_t)1 << 31)

typedef int (*cuLaunchKernel_t)(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                unsigned block_y, unsigned block_z, unsigned shared, void *stream, void **parameters,
                                void **extra);

static PyObject *name_data_ptr, *name_numel, *name_stride, *name_run, *name_level;

/* ---- Start ---------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *owned;    /* what the next are borrowed from */
    PyObject *compiled; /* the kernel, as Triton has it; whoever launches one asks for its attribute run */
    PyObject *launcher; /* what that must be; another is called, by instead */
    PyObject *instead;
    PyObject *stream_of; /* the current stream of a device */
    PyObject *device;
    cuLaunchKernel_t launch;
    void *function;
    unsigned threads, shared, programs; /* a block's threads, its bytes, and programs for each tile of rows */
    int64_t tile, fewest, most;         /* rows of a program; row counts that are known to be served */
    int n_parameters, n_pointers, n_counts;
    int counts[MAX_COUNTS]; /* which parameters; -1: none is */
    uint8_t sizes[MAX_PARAMETERS];
    uint64_t values[MAX_PARAMETERS];
} Start;

static PyObject *Start_new(PyTypeObject *type, PyObject *args, PyObject *names) {
    static char *keywords[] = {"launch", "function", "threads", "shared", "programs", "tile", "values", "pointers",
                               "counts", "compiled", "launcher", "instead", "stream_of", "device", NULL};
    unsigned long long launch, function;
    unsigned threads, shared, programs;
    long long tile;
    int n_pointers;
    PyObject *values, *counts, *compiled, *launcher, *instead, *stream_of, *device;
    if (!PyArg_ParseTupleAndKeywords(args, names, "$KKIIILO!iO!OOOOO", keywords, &launch, &function, &threads, &shared,
                                     &programs, &tile, &PyTuple_Type, &values, &n_pointers, &PyTuple_Type, &counts,
                                     &compiled, &launcher, &instead, &stream_of, &device))
        return NULL;
    Py_ssize_t n = PyTuple_GET_SIZE(values), n_counts = PyTuple_GET_SIZE(counts);
    if (n > MAX_PARAMETERS || n_pointers < 1 || n_pointers > n || n_pointers > MAX_POINTERS || n_counts < 1 ||
        n_counts > MAX_COUNTS || tile < 1) {
        PyErr_SetString(PyExc_ValueError, "more parameters, pointers or counts than there is room for, or too few");
        return NULL;
    }
    Start *self = (Start *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < n; i++) {
        char *bytes;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(PyTuple_GET_ITEM(values, i), &bytes, &size) < 0)
            goto failed;
        if (size < 1 || size > 8 || (i < n_pointers && size != 8)) {
            PyErr_SetString(PyExc_ValueError, "a value has 1 to 8 bytes, a pointer 8");
            goto failed;
        }
        memcpy(&self->values[i], bytes, (size_t)size);
        self->sizes[i] = (uint8_t)size;
    }
    for (Py_ssize_t i = 0; i < n_counts; i++) {
        long place = PyLong_AsLong(PyTuple_GET_ITEM(counts, i));
        if (place == -1 && PyErr_Occurred())
            goto failed;
        if (place < -1 || place >= n || (place >= 0 && self->sizes[place] < 4)) {
            PyErr_SetString(PyExc_ValueError, "a count is a parameter of 4 or 8 bytes, or -1");
            goto failed;
        }
        self->counts[i] = (int)place;
    }
    self->owned = PyTuple_Pack(5, compiled, launcher, instead, stream_of, device);
    if (self->owned == NULL)
        goto failed;
    self->compiled = compiled, self->launcher = launcher, self->instead = instead;
    self->stream_of = stream_of, self->device = device;
    self->launch = (cuLaunchKernel_t)(uintptr_t)launch;
    self->function = (void *)(uintptr_t)function;
    self->threads = threads, self->shared = shared, self->programs = programs, self->tile = tile;
    self->n_parameters = (int)n, self->n_pointers = n_pointers, self->n_counts = (int)n_counts;
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

static PyObject *packed(const uint64_t *pointers, int n_pointers) {
    PyObject *tuple = PyTuple_New(n_pointers);
    for (int i = 0; tuple != NULL && i < n_pointers; i++) {
        PyObject *each = PyLong_FromUnsignedLongLong(pointers[i]);
        if (each == NULL)
            Py_CLEAR(tuple);
        else
            PyTuple_SET_ITEM(tuple, i, each);
    }
    return tuple;
}

/* Call the kernel's own launcher, in Python: 1, 0 where it does not launch, or -1 with an error. */
static int start_instead(Start *self, PyObject *launcher, const uint64_t *pointers, const int64_t *counts) {
    int done = -1;
    PyObject *places = packed(pointers, self->n_pointers), *numbers = packed((const uint64_t *)counts, self->n_counts);
    if (places != NULL && numbers != NULL) {
        PyObject *result = PyObject_CallFunctionObjArgs(self->instead, launcher, places, numbers, NULL);
        done = result == NULL ? -1 : PyObject_IsTrue(result);
        Py_XDECREF(result);
    }
    Py_XDECREF(places);
    Py_XDECREF(numbers);
    return done;
}

/* Launch on the current device: 1, or 0 where Triton has to, or -1 with an error. */
static int start_now(Start *self, const uint64_t *pointers, const int64_t *counts) {
    for (int i = 0; i < self->n_counts; i++)
        if (counts[i] < 0 || counts[i] >= INT32)
            return 0;
    /* asked for each time: who counts launches replaces it */
    PyObject *launcher = PyObject_GetAttr(self->compiled, name_run);
    if (launcher == NULL)
        return -1;
    int done = launcher == self->launcher ? 2 : start_instead(self, launcher, pointers, counts);
    Py_DECREF(launcher);
    if (done != 2)
        return done;
    PyObject *asked = PyObject_CallOneArg(self->stream_of, self->device);
    if (asked == NULL)
        return -1;
    void *stream = PyLong_AsVoidPtr(asked);
    Py_DECREF(asked);
    if (stream == NULL && PyErr_Occurred())
        return -1;

    /* memory of this call: another thread may start the same kernel */
    uint64_t values[MAX_PARAMETERS];
    void *parameters[MAX_PARAMETERS];
    memcpy(values, self->values, sizeof(uint64_t) * (size_t)self->n_parameters);
    memcpy(values, pointers, sizeof(uint64_t) * (size_t)self->n_pointers);
    for (int i = 0; i < self->n_counts; i++)
        if (self->counts[i] >= 0)
            memcpy(&values[self->counts[i]], &counts[i], self->sizes[self->counts[i]]);
    for (int i = 0; i < self->n_parameters; i++)
        parameters[i] = &values[i];
    unsigned grid = (unsigned)((counts[0] + self->tile - 1) / self->tile);
    int error;
    /* it waits where the queue is full */
    Py_BEGIN_ALLOW_THREADS
    error = self->launch(self->function, grid, self->programs, 1, self->threads, 1, 1, self->shared, stream,
                         parameters, NULL);
    Py_END_ALLOW_THREADS
    /* whatever it is, as a thread without a context: Triton can mend it, or says what it is */
    return error == 0;
}

static PyObject *Start_call(PyObject *self, PyObject *const *args, Py_ssize_t n) {
    Start *start = (Start *)self;
    uint64_t pointers[MAX_POINTERS];
    int64_t counts[MAX_COUNTS];
    if (n != 2 || !PyTuple_Check(args[0]) || !PyTuple_Check(args[1]) ||
        PyTuple_GET_SIZE(args[0]) != start->n_pointers || PyTuple_GET_SIZE(args[1]) != start->n_counts) {
        PyErr_SetString(PyExc_TypeError, "a start takes a tuple of its pointers, and one of its counts");
        return NULL;
    }
    for (int i = 0; i < start->n_pointers; i++)
        pointers[i] = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(args[0], i));
    for (int i = 0; i < start->n_counts; i++)
        counts[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(args[1], i));
    if (PyErr_Occurred())
        return NULL;
    int done = start_now(start, pointers, counts);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static int Start_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(((Start *)self)->owned);
    return 0;
}

static void Start_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((Start *)self)->owned);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef Start_methods[] = {
    {"start", (PyCFunction)(void (*)(void))Start_call, METH_FASTCALL,
     "start(pointers, counts): launch on the current device; False where Triton has to."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef Start_members[] = {
    {"fewest", T_LONGLONG, offsetof(Start, fewest), 0, "the least row count that is known to be served"},
    {"most", T_LONGLONG, offsetof(Start, most), 0, "the largest"},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject StartType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "normkernels.direct.Start",
    .tp_doc = "A launch that lacks its pointers and counts.",
    .tp_basicsize = sizeof(Start),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = Start_new,
    .tp_dealloc = Start_dealloc,
    .tp_traverse = Start_traverse,
    .tp_methods = Start_methods,
    .tp_members = Start_members,
};

/* ---- Shortcut ------------------------------------------------------------------------------------------------- */

/* A number of a call: the first size of its first tensor times a factor, or a stride of one. */
typedef struct {
    int slot, dimension; /* slot -1: of sizes */
    int64_t factor;
} Count;

/* A tensor whose sizes are known but one, which is a count: its elements, for each. */
typedef struct {
    int slot;
    int64_t elements;
} Sized;

/* An attribute that must be an object; where that is False, anything that is false. */
typedef struct {
    PyObject *owner, *name, *plain;
} Setting;

/* Memory that a call makes. */
typedef struct {
    PyObject *sizes, *strides, *dtype; /* sizes without the first */
    int64_t last; /* the last stride, for each of the first size; 0: it is among the strides */
} New;

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *owned;  /* what all else is borrowed from */
    PyObject *alike;  /* the question whether tensors are like earlier ones, asked of those in asked */
    PyObject *autograd, *gradient; /* the module with forward mode's level; whether gradients are enabled, or NULL */
    PyObject *device_of, *device;
    PyObject *starts; /* a list; it grows */
    PyObject *empty;  /* makes memory of sizes, strides and a dtype */
    PyObject *look, *hold, *held; /* called with all arguments: each time; and once for each of where they lie */
    PyObject *increment, *written; /* called with those that are written, or NULL */
    int n_slots, n_asked, n_sized, n_settings, n_counts, n_new, n_pointers, n_results, n_written, lone, anywhere, held_most;
    int same[MAX_SLOTS];  /* the slot that a slot must hold the same as; itself: it is asked about; -1: none */
    int asked[MAX_SLOTS];
    Sized sized[MAX_SLOTS]; /* the first tensor, and others that have its first size */
    Setting settings[MAX_SETTINGS]; /* as they are where nobody has set what only Triton's own launch heeds */
    Count counts[MAX_COUNTS];
    New made[MAX_NEW];
    int pointers[MAX_POINTERS], results[MAX_NEW + MAX_SLOTS], writes[MAX_SLOTS]; /* slots, then what is made */
} Shortcut;

/* Read a tuple of integers below a limit; how many there are, or -1. */
static int read_ints(PyObject *tuple, int *into, int room, int least, int limit) {
    Py_ssize_t n = PyTuple_Check(tuple) ? PyTuple_GET_SIZE(tuple) : room + 1;
    for (Py_ssize_t i = 0; n <= room && i < n; i++) {
        long each = PyLong_AsLong(PyTuple_GET_ITEM(tuple, i));
        if (each == -1 && PyErr_Occurred())
            return -1;
        if (each < least || each >= limit)
            n = room + 1;
        else
            into[i] = (int)each;
    }
    if (n > room) {
        PyErr_SetString(PyExc_ValueError, "a tuple of fewer numbers, or of others, is needed");
        return -1;
    }
    return (int)n;
}

static PyObject *Shortcut_call(PyObject *callable, PyObject *const *args, size_t flags, PyObject *names);

static PyObject *Shortcut_new(PyTypeObject *type, PyObject *args, PyObject *names) {
    static char *keywords[] = {"alike", "settings", "autograd", "gradient", "device_of", "device", "starts", "empty",
                               "look", "hold", "held", "held_most", "increment", "same", "sized", "counts", "made",
                               "pointers", "anywhere", "results", "lone", "written", NULL};
    PyObject *alike, *settings, *autograd, *gradient, *device_of, *device, *starts, *empty, *look, *hold, *held, *increment;
    PyObject *same, *sized, *counts, *made, *pointers, *results, *written;
    int held_most, anywhere, lone;
    if (!PyArg_ParseTupleAndKeywords(args, names, "$OO!OOOOO!OOOO!iOO!O!O!O!O!iO!pO!", keywords, &alike, &PyTuple_Type, &settings, &autograd,
                                     &gradient, &device_of, &device, &PyList_Type, &starts, &empty, &look, &hold,
                                     &PySet_Type, &held, &held_most, &increment, &PyTuple_Type, &same, &PyTuple_Type,
                                     &sized, &PyTuple_Type, &counts, &PyTuple_Type, &made, &PyTuple_Type, &pointers,
                                     &anywhere, &PyTuple_Type, &results, &lone, &PyTuple_Type, &written))
        return NULL;
    Shortcut *self = (Shortcut *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->call = Shortcut_call;
    self->owned = PyTuple_Pack(13, alike, settings, autograd, gradient, device_of, device, starts, empty, look, hold, held,
                               increment, made);
    if (self->owned == NULL)
        goto failed;
    self->alike = alike, self->autograd = autograd, self->device_of = device_of;
    self->gradient = gradient == Py_None ? NULL : gradient;
    self->device = device, self->starts = starts, self->empty = empty;
    self->look = look == Py_None ? NULL : look, self->hold = hold == Py_None ? NULL : hold;
    self->held = held, self->held_most = held_most, self->increment = increment, self->anywhere = anywhere;
    self->lone = lone;

    int slots = self->n_slots = read_ints(same, self->same, MAX_SLOTS, -1, (int)PyTuple_GET_SIZE(same));
    if (slots < 0)
        goto failed;
    for (int i = 0; i < slots; i++)
        if (self->same[i] == i)
            self->asked[self->n_asked++] = i;
    Py_ssize_t n_sized = PyTuple_GET_SIZE(sized), n_counts = PyTuple_GET_SIZE(counts), n_new = PyTuple_GET_SIZE(made);
    Py_ssize_t n_settings = PyTuple_GET_SIZE(settings);
    if (slots < 1 || self->same[0] != 0 || n_sized < 1 || n_sized > MAX_SLOTS || n_counts < 1 || n_counts > MAX_COUNTS ||
        n_new > MAX_NEW || n_settings > MAX_SETTINGS) {
        PyErr_SetString(PyExc_ValueError, "more sizes, settings, counts or outputs than there is room for, or no first tensor");
        goto failed;
    }
    self->n_sized = (int)n_sized, self->n_counts = (int)n_counts, self->n_new = (int)n_new;
    self->n_settings = (int)n_settings;
    for (int i = 0; i < self->n_settings; i++) {
        Setting *into = &self->settings[i];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(settings, i), "OUO", &into->owner, &into->name, &into->plain))
            goto failed;
    }
    for (int i = 0; i < self->n_sized; i++) {
        Sized *into = &self->sized[i];
        long long elements;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(sized, i), "iL", &into->slot, &elements))
            goto failed;
        into->elements = elements;
        if (into->slot < 0 || into->slot >= slots || self->same[into->slot] < 0 || elements < 1) {
            PyErr_SetString(PyExc_ValueError, "sizes are of tensors that are there, and hold an element");
            goto failed;
        }
    }
    for (int i = 0; i < self->n_counts; i++) {
        Count *into = &self->counts[i];
        long long factor;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(counts, i), "iiL", &into->slot, &into->dimension, &factor))
            goto failed;
        into->factor = factor;
        if (into->slot >= slots || (into->slot >= 0 && self->same[into->slot] < 0)) {
            PyErr_SetString(PyExc_ValueError, "a count is of a tensor that is there");
            goto failed;
        }
    }
    for (int i = 0; i < self->n_new; i++) {
        New *into = &self->made[i];
        long long last;
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(made, i), "O!O!OL", &PyTuple_Type, &into->sizes, &PyTuple_Type,
                              &into->strides, &into->dtype, &last))
            goto failed;
        into->last = last;
    }
    int all = slots + self->n_new;
    self->n_pointers = read_ints(pointers, self->pointers, MAX_POINTERS, 0, all);
    self->n_results = self->n_pointers < 0 ? -1 : read_ints(results, self->results, MAX_NEW + MAX_SLOTS, 0, all);
    self->n_written = self->n_results < 0 ? -1 : read_ints(written, self->writes, MAX_SLOTS, 0, slots);
    if (self->n_written < 0)
        goto failed;
    if (self->n_results < 1 || (self->lone && self->n_results != 1)) {
        PyErr_SetString(PyExc_ValueError, "a lone result is one, and there is at least one");
        goto failed;
    }
    return (PyObject *)self;
failed:
    Py_DECREF(self);
    return NULL;
}

/* Return 1 where a callable says so, 0 where it does not, -1 with an error. */
static int says(PyObject *answer) {
    int yes = answer == NULL ? -1 : answer == Py_True ? 1 : answer == Py_False ? 0 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return yes;
}

/* Return an element of a tuple of integers, or -1 with an error. */
static int64_t element(PyObject *tuple, int at) {
    Py_ssize_t size = PyTuple_Check(tuple) ? PyTuple_GET_SIZE(tuple) : 0, place = at < 0 ? size + at : at;
    if (place >= 0 && place < size)
        return PyLong_AsLongLong(PyTuple_GET_ITEM(tuple, place));
    PyErr_SetString(PyExc_IndexError, "a tensor has fewer dimensions than those it is like");
    return -1;
}

static int64_t elements_of(PyObject *tensor) {
    PyObject *number = PyObject_CallMethodNoArgs(tensor, name_numel);
    int64_t elements = number == NULL ? -1 : PyLong_AsLongLong(number);
    Py_XDECREF(number);
    return elements;
}

static uint64_t pointer_of(PyObject *tensor) {
    PyObject *number = PyObject_CallMethodNoArgs(tensor, name_data_ptr);
    if (number == NULL)
        return (uint64_t)-1;
    uint64_t pointer = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    return pointer;
}

/* Return 1 if the arguments are the tensors that they must be, or are not there, 0 if not, -1 with an error. */
static int are_alike(Shortcut *self, PyObject *const *args) {
    PyObject *asked[MAX_SLOTS];
    for (int i = 0; i < self->n_slots; i++)
        if (self->same[i] != i && args[i] != (self->same[i] < 0 ? Py_None : args[self->same[i]]))
            return 0;
    for (int i = 0; i < self->n_asked; i++)
        asked[i] = args[self->asked[i]];
    int yes = says(PyObject_Vectorcall(self->alike, asked, (size_t)self->n_asked, NULL));
    if (yes != 1)
        return yes;
    PyObject *level = PyObject_GetAttr(self->autograd, name_level);
    if (level == NULL)
        return -1;
    long depth = PyLong_AsLong(level);
    Py_DECREF(level);
    if (depth == -1 && PyErr_Occurred())
        return -1;
    if (depth >= 0)
        return 0;
    if (self->gradient != NULL) {
        yes = says(PyObject_CallNoArgs(self->gradient));
        if (yes != 0)
            return yes < 0 ? -1 : 0;
    }
    return 1;
}

/* Return 1 if all settings are plain, 0 if not, -1 with an error. */
static int are_plain(const Shortcut *self) {
    for (int i = 0; i < self->n_settings; i++) {
        const Setting *each = &self->settings[i];
        PyObject *value = PyObject_GetAttr(each->owner, each->name);
        if (value == NULL)
            return -1;
        int set = value != each->plain && (each->plain != Py_False || PyObject_IsTrue(value) != 0);
        Py_DECREF(value);
        if (set)
            return PyErr_Occurred() ? -1 : 0;
    }
    return 1;
}

/* Fill in the first size and the counts; 1, 0 where sizes differ, or -1 with an error. */
static int count_all(Shortcut *self, PyObject *const *args, int64_t *first, int64_t *counts) {
    for (int i = 0; i < self->n_sized; i++) {
        int64_t elements = elements_of(args[self->sized[i].slot]);
        /* all its other sizes are known, and make up a divisor */
        if (i == 0)
            *first = elements / self->sized[0].elements;
        if (elements < 0 || elements != *first * self->sized[i].elements)
            return elements < 0 ? -1 : 0;
    }
    PyObject *strides = NULL;
    int of = -1, going = 1;
    for (int i = 0; going == 1 && i < self->n_counts; i++) {
        const Count *count = &self->counts[i];
        if (count->slot < 0) {
            counts[i] = *first * count->factor;
            continue;
        }
        /* of one tensor they are asked for once */
        if (count->slot != of) {
            of = count->slot;
            Py_XSETREF(strides, PyObject_CallMethodNoArgs(args[of], name_stride));
        }
        counts[i] = strides == NULL ? -1 : element(strides, count->dimension);
        going = counts[i] < 0 ? -1 : 1;
    }
    Py_XDECREF(strides);
    return going;
}

/* Return what serves a number of rows, borrowed; NULL where nothing does. */
static Start *serving(Shortcut *self, int64_t rows) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(self->starts); i++) {
        PyObject *each = PyList_GET_ITEM(self->starts, i);
        if (Py_IS_TYPE(each, &StartType) && ((Start *)each)->fewest <= rows && rows <= ((Start *)each)->most)
            return (Start *)each;
    }
    return NULL;
}

/* Hold arguments to memory that they may share, unless others that lie alike were; 0, or -1 with an error. */
static int hold_apart(Shortcut *self, PyObject *const *args, const uint64_t *at, int64_t first, const int64_t *counts) {
    int64_t places[MAX_SLOTS + MAX_COUNTS];
    int n = 0;
    places[n++] = first;
    for (int i = 1; i < self->n_slots; i++)
        places[n++] = (int64_t)(at[i] - at[0]);
    for (int i = 1; i < self->n_counts; i++)
        places[n++] = counts[i];
    PyObject *key = PyBytes_FromStringAndSize((const char *)places, (Py_ssize_t)sizeof(int64_t) * n);
    if (key == NULL)
        return -1;
    int known = PySet_Contains(self->held, key);
    if (known == 0) {
        PyObject *done = PyObject_Vectorcall(self->hold, args, (size_t)self->n_slots, NULL);
        known = done == NULL ? -1 : 0;
        Py_XDECREF(done);
        if (known == 0 && PySet_GET_SIZE(self->held) >= self->held_most)
            known = PySet_Clear(self->held);
        if (known == 0)
            known = PySet_Add(self->held, key);
    }
    Py_DECREF(key);
    return known < 0 ? -1 : 0;
}

/* Make one output. */
static PyObject *make(Shortcut *self, const New *how, int64_t first) {
    Py_ssize_t n = PyTuple_GET_SIZE(how->sizes), n_strides = PyTuple_GET_SIZE(how->strides);
    PyObject *result = NULL, *strides = NULL, *sizes = PyTuple_New(n + 1), *count = PyLong_FromLongLong(first);
    if (sizes == NULL || count == NULL)
        goto done;
    PyTuple_SET_ITEM(sizes, 0, count);
    count = NULL;
    for (Py_ssize_t i = 0; i < n; i++)
        PyTuple_SET_ITEM(sizes, i + 1, Py_NewRef(PyTuple_GET_ITEM(how->sizes, i)));
    if (how->last == 0) {
        strides = Py_NewRef(how->strides);
    } else {
        count = PyLong_FromLongLong(first * how->last);
        strides = count == NULL ? NULL : PyTuple_New(n_strides + 1);
        if (strides == NULL)
            goto done;
        for (Py_ssize_t i = 0; i < n_strides; i++)
            PyTuple_SET_ITEM(strides, i, Py_NewRef(PyTuple_GET_ITEM(how->strides, i)));
        PyTuple_SET_ITEM(strides, n_strides, count);
        count = NULL;
    }
    PyObject *given[] = {sizes, strides, how->dtype};
    result = PyObject_Vectorcall(self->empty, given, 3, NULL);
done:
    Py_XDECREF(count);
    Py_XDECREF(sizes);
    Py_XDECREF(strides);
    return result;
}

/* Return a tuple of those at some places. */
static PyObject *picked(PyObject *const *all, const int *places, int n) {
    PyObject *tuple = PyTuple_New(n);
    for (int i = 0; tuple != NULL && i < n; i++)
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(all[places[i]]));
    return tuple;
}

static PyObject *Shortcut_call(PyObject *callable, PyObject *const *args, size_t flags, PyObject *names) {
    Shortcut *self = (Shortcut *)callable;
    if (PyVectorcall_NARGS(flags) != self->n_slots || (names != NULL && PyTuple_GET_SIZE(names) != 0)) {
        PyErr_SetString(PyExc_TypeError, "a shortcut takes as many arguments as the call that it was made of");
        return NULL;
    }
    PyObject *all[MAX_SLOTS + MAX_NEW] = {NULL};
    uint64_t at[MAX_SLOTS + MAX_NEW], pointers[MAX_POINTERS];
    int64_t first, counts[MAX_COUNTS];
    int slots = self->n_slots, going;

    if ((going = are_alike(self, args)) != 1 || (going = count_all(self, args, &first, counts)) != 1)
        goto elsewhere;
    going = are_plain(self);
    Start *start = going == 1 ? serving(self, counts[0]) : NULL;
    if (start == NULL || start->n_pointers != self->n_pointers || start->n_counts != self->n_counts)
        goto elsewhere;
    /* what is called below might forget it */
    Py_INCREF(start);
    PyObject *device = PyObject_CallNoArgs(self->device_of);
    going = device == NULL ? -1 : PyObject_RichCompareBool(device, self->device, Py_EQ);
    Py_XDECREF(device);
    if (going != 1)
        goto done;

    for (int i = 0; i < slots; i++) {
        all[i] = args[i];
        at[i] = args[i] == Py_None ? at[0] : pointer_of(args[i]);
    }
    if (PyErr_Occurred()) {
        going = -1;
        goto done;
    }
    if (self->look != NULL) {
        PyObject *seen = PyObject_Vectorcall(self->look, args, (size_t)slots, NULL);
        going = seen == NULL ? -1 : 1;
        Py_XDECREF(seen);
    }
    if (going == 1 && self->hold != NULL && hold_apart(self, args, at, first, counts) < 0)
        going = -1;
    for (int i = 0; going == 1 && i < self->n_new; i++) {
        all[slots + i] = make(self, &self->made[i], first);
        at[slots + i] = all[slots + i] == NULL ? 0 : pointer_of(all[slots + i]);
        if (all[slots + i] == NULL || PyErr_Occurred())
            going = -1;
    }
    for (int i = 0; going == 1 && i < self->n_pointers; i++) {
        pointers[i] = at[self->pointers[i]];
        if (i != self->anywhere && pointers[i] % ALIGNMENT != 0)
            going = 0;
    }
    if (going == 1)
        going = start_now(start, pointers, counts);
    if (going == 1 && self->n_written != 0) {
        PyObject *those = picked(args, self->writes, self->n_written);
        PyObject *seen = those == NULL ? NULL : PyObject_CallOneArg(self->increment, those);
        going = seen == NULL ? -1 : 1;
        Py_XDECREF(those);
        Py_XDECREF(seen);
    }
done:
    Py_DECREF(start);
    PyObject *result = NULL;
    if (going == 1) {
        result = self->lone ? Py_NewRef(all[self->results[0]]) : picked(all, self->results, self->n_results);
        going = result == NULL ? -1 : 1;
    }
    for (int i = 0; i < self->n_new; i++)
        Py_XDECREF(all[slots + i]);
    if (going == 1)
        return result;
elsewhere:
    return going < 0 ? NULL : Py_NewRef(Py_None);
}

static int Shortcut_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(((Shortcut *)self)->owned);
    return 0;
}

static void Shortcut_dealloc(PyObject *self) {
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((Shortcut *)self)->owned);
    Py_TYPE(self)->tp_free(self);
}

static PyMemberDef Shortcut_members[] = {
    {"alike", T_OBJECT, offsetof(Shortcut, alike), READONLY, "the question whether tensors are like earlier ones"},
    {"starts", T_OBJECT, offsetof(Shortcut, starts), READONLY, "what it launches"},
    {"held", T_OBJECT, offsetof(Shortcut, held), READONLY, "where arguments lie that were held to be apart"},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject ShortcutType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "normkernels.direct.Shortcut",
    .tp_doc = "A call's results where it is like the one that this was made of; None where it is not.",
    .tp_basicsize = sizeof(Shortcut),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_new = Shortcut_new,
    .tp_dealloc = Shortcut_dealloc,
    .tp_traverse = Shortcut_traverse,
    .tp_members = Shortcut_members,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Shortcut, call),
};

/* ---- the module ----------------------------------------------------------------------------------------------- */

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "normkernels_direct", "Calls like earlier ones, in C.", -1, NULL, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_normkernels_direct(void) {
    name_data_ptr = PyUnicode_InternFromString("data_ptr");
    name_numel = PyUnicode_InternFromString("numel");
    name_stride = PyUnicode_InternFromString("stride");
    name_run = PyUnicode_InternFromString("run");
    name_level = PyUnicode_InternFromString("_current_level");
    if (PyErr_Occurred())
        return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made == NULL || PyModule_AddType(made, &StartType) < 0 || PyModule_AddType(made, &ShortcutType) < 0) {
        Py_XDECREF(made);
        return NULL;
    }
    return made;
}
