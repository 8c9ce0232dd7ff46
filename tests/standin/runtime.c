/* The CUDA runtime on host memory, for CuPy's compiled code: each function here takes the place of the one of that name
 * that cupy_backends.cuda.api.runtime exports to the rest of CuPy (Cython's C signatures, CuPy 14). CuPy's wheels carry
 * the real runtime inside, which finds no device here. */
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MULTIPROCESSORS = 16, MAJOR = 75, MINOR = 76, SHARED_BYTES = 97, MEMORY_POOLS = 115, OUT_OF_MEMORY = 2,
       DEVICE_TO_HOST = 2, DEVICE_TO_DEVICE = 3 /* 4: whatever the addresses are */, NOT_READY = 600, CAPTURE_UNSUPPORTED = 900 };

extern __thread int standin_device;
extern double standin_busy_until, standin_copy_time;
double standin_now(void);
void standin_enqueue(double length);
typedef struct Graph Graph;
uint64_t standin_captured(void);
void standin_spoil(void);
int standin_begin(uint64_t stream);
int standin_end(uint64_t stream, Graph **graph);
Graph *standin_instantiate(const Graph *graph);
void standin_launch_graph(const Graph *graph, uint64_t stream);

static long long limit = 8ll << 30, used;
static intptr_t handles = 0x5000;
enum { EVENTS = 1 << 16 };
static double recorded[EVENTS]; /* milliseconds, by handle; older events are forgotten */

enum { KEPT = 1 << 12 };
static size_t fetched[KEPT]; /* bytes of the last copies to the host, in a ring */
static long long fetches;
static int fetches_zeros; /* whether zeros arrive */

void standin_limit(long long bytes) { limit = bytes; }
void standin_fetch_zeros(int on) { fetches_zeros = on; }
long long standin_fetches(void) { return fetches; }
long long standin_fetched(long long number) { return (long long)fetched[number % KEPT]; }

static PyObject *refuse(int code) {
    PyObject *module = PyImport_ImportModule("cupy_backends.cuda.api.runtime");
    PyObject *kind = PyObject_GetAttrString(module, "CUDARuntimeError");
    PyObject *error = PyObject_CallFunction(kind, "i", code);
    if (error) PyErr_SetObject(kind, error);
    Py_XDECREF(error);
    Py_DECREF(kind);
    Py_DECREF(module);
    return NULL;
}

/* What no graph can hold, or what this stand-in's graphs do not, spoils the one that is being made. */
static PyObject *refuse_in_graph(void) {
    standin_spoil();
    return refuse(CAPTURE_UNSUPPORTED);
}

static int captures(intptr_t stream) { return stream && (uint64_t)stream == standin_captured(); }

static intptr_t take(size_t bytes) {
    if (used + (long long)bytes > limit) return (intptr_t)refuse(OUT_OF_MEMORY);
    char *block = NULL; /* as aligned as a device's, its size before it, filled with NaN: nobody may count on zeros */
    if (posix_memalign((void **)&block, 512, bytes + 512)) return 0;
    *(size_t *)block = bytes;
    used += bytes;
    return (intptr_t)memset(block + 512, 0xFF, bytes);
}

static PyObject *give_back(intptr_t address) {
    if (address) {
        used -= *(size_t *)(address - 512);
        free((void *)(address - 512));
    }
    Py_RETURN_NONE;
}

PyObject *runtime__ensure_context(void) { Py_RETURN_NONE; }
int runtime_getDevice(int skip) { return standin_device; }
int runtime_getDeviceCount(int skip) { return 2; }
PyObject *runtime_setDevice(int device, int skip) {
    standin_device = device;
    Py_RETURN_NONE;
}
int runtime_driverGetVersion(int skip) { return CUDA_MAJOR * 1000; }
int runtime_runtimeGetVersion(int skip) { return CUDA_MAJOR * 1000; }
int runtime__getCUDAMajorVersion(int skip) { return CUDA_MAJOR; }

int runtime_deviceGetAttribute(int attribute, int device, int skip) {
    switch (attribute) {
        case MAJOR: return 9;
        case MINOR: return 0;
        case MULTIPROCESSORS: return 132;
        case SHARED_BYTES: return 232448;
        case MEMORY_POOLS: return 1;
        default: return 1024;
    }
}

intptr_t runtime_malloc(size_t bytes, int skip) { return take(bytes); }
intptr_t runtime_mallocAsync(size_t bytes, intptr_t stream, int skip) { return take(bytes); }
intptr_t runtime_hostAlloc(size_t bytes, unsigned flags, int skip) { return take(bytes); }
PyObject *runtime_free(intptr_t address, int skip) { return give_back(address); }
PyObject *runtime_freeAsync(intptr_t address, intptr_t stream, int skip) { return give_back(address); }
PyObject *runtime_freeHost(intptr_t address, int skip) { return give_back(address); }
PyObject *runtime_memGetInfo(int skip) { return Py_BuildValue("(LL)", limit - used, limit); }

PyObject *runtime_memcpy(intptr_t target, intptr_t source, size_t bytes, int kind, int skip) {
    if (kind == DEVICE_TO_HOST) fetched[fetches++ % KEPT] = bytes;
    if (kind == DEVICE_TO_HOST && fetches_zeros) memset((void *)target, 0, bytes);
    else memmove((void *)target, (void *)source, bytes);
    Py_RETURN_NONE;
}
PyObject *runtime_memcpyAsync(intptr_t target, intptr_t source, size_t bytes, int kind, intptr_t stream, int skip) {
    if (captures(stream)) return refuse_in_graph();
    if (kind >= DEVICE_TO_DEVICE) standin_enqueue(bytes * 1e-9 * standin_copy_time);
    return runtime_memcpy(target, source, bytes, kind, skip);
}
PyObject *runtime_memset(intptr_t target, int value, size_t bytes, int skip) {
    memset((void *)target, value, bytes);
    Py_RETURN_NONE;
}
PyObject *runtime_memsetAsync(intptr_t target, int value, size_t bytes, intptr_t stream, int skip) {
    if (captures(stream)) return refuse_in_graph();
    return runtime_memset(target, value, bytes, skip);
}
int runtime_pointerGetMemoryType(intptr_t address, int skip) { return 0; }

static PyObject *wait_until(double when) {
    double left = when - standin_now();
    struct timespec rest = {(time_t)(left / 1e3), (long)(left * 1e6) % 1000000000};
    if (left > 0) nanosleep(&rest, NULL);
    Py_RETURN_NONE;
}
PyObject *runtime_deviceSynchronize(int skip) {
    return standin_captured() ? refuse_in_graph() : wait_until(standin_busy_until);
}
PyObject *runtime_streamSynchronize(intptr_t stream, int skip) {
    return captures(stream) ? refuse_in_graph() : wait_until(standin_busy_until);
}
intptr_t runtime_streamCreate(int skip) { return handles += 16; }
intptr_t runtime_streamCreateWithFlags(unsigned flags, int skip) { return handles += 16; }
intptr_t runtime_streamCreateWithPriority(unsigned flags, int priority, int skip) { return handles += 16; }
PyObject *runtime_streamDestroy(intptr_t stream, int skip) { Py_RETURN_NONE; }
int runtime_streamIsCapturing(intptr_t stream, int skip) { return captures(stream); }
PyObject *runtime_streamBeginCapture(intptr_t stream, int skip, void *mode) {
    int code = standin_begin((uint64_t)stream);
    if (code) return refuse(code);
    Py_RETURN_NONE;
}
intptr_t runtime_streamEndCapture(intptr_t stream, int skip) {
    Graph *graph;
    int code = standin_end((uint64_t)stream, &graph);
    return code ? (intptr_t)refuse(code) : (intptr_t)graph;
}
intptr_t runtime_graphInstantiate(intptr_t graph, int skip) { return (intptr_t)standin_instantiate((Graph *)graph); }
PyObject *runtime_graphDestroy(intptr_t graph, int skip) {
    free((void *)graph);
    Py_RETURN_NONE;
}
PyObject *runtime_graphExecDestroy(intptr_t graph, int skip) { return runtime_graphDestroy(graph, skip); }
PyObject *runtime_graphUpload(intptr_t graph, intptr_t stream, int skip) { Py_RETURN_NONE; }
PyObject *runtime_graphLaunch(intptr_t graph, intptr_t stream, int skip) {
    if (captures(stream)) return refuse_in_graph();
    standin_launch_graph((Graph *)graph, (uint64_t)stream);
    Py_RETURN_NONE;
}
intptr_t runtime_eventCreate(int skip) { return handles += 16; }
intptr_t runtime_eventCreateWithFlags(unsigned flags, int skip) { return handles += 16; }
PyObject *runtime_eventDestroy(intptr_t event, int skip) { Py_RETURN_NONE; }
/* An event happens when the work before it is done: at once, unless the device has been given a pace. */
PyObject *runtime_eventRecord(intptr_t event, intptr_t stream, int skip) {
    double now = standin_now();
    recorded[event / 16 % EVENTS] = standin_busy_until > now ? standin_busy_until : now;
    Py_RETURN_NONE;
}
PyObject *runtime_eventQuery(intptr_t event, int skip) {
    return PyLong_FromLong(standin_now() < recorded[event / 16 % EVENTS] ? NOT_READY : 0);
}
float runtime_eventElapsedTime(intptr_t start, intptr_t end, int skip) {
    return (float)(recorded[end / 16 % EVENTS] - recorded[start / 16 % EVENTS]);
}
PyObject *runtime_eventSynchronize(intptr_t event, int skip) { return wait_until(recorded[event / 16 % EVENTS]); }
PyObject *runtime_streamWaitEvent(intptr_t stream, intptr_t event, int skip, void *flags) { Py_RETURN_NONE; }
