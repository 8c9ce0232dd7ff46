/* A CUDA driver for machines without one: it runs no kernel and records what each launch was given.
 *
 * Built as libcuda.so.1, it answers the calls by which CuPy loads a cubin and launches from it. Python tells it, through
 * the two callbacks, how many parameters a kernel has and how large they are, so that a launch keeps a copy of each.
 *
 * While a stream is captured, launches on it go into a graph instead, and into the record when the graph is launched.
 *
 * The device has one queue and a clock: work that is given a length (standin_pace) keeps it busy for so long. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PARAMETERS = 64, KEPT = 1 << 12, SUCCESS = 0, INVALID_VALUE = 1, TOO_LARGE = 720, DYNAMIC_SHARED_SIZE = 8,
       WITHOUT_ASKING = 48 << 10, MULTIPROCESSORS = 132, CAPTURE_UNSUPPORTED = 900,
       CAPTURE_INVALIDATED = 901 };

typedef struct {
    int32_t module, count, size[PARAMETERS], dynamic_shared_size, registers;
} Kernel;

typedef struct {
    const Kernel *kernel;
    uint32_t grid[3], block[3], shared_bytes, cooperative, device, in_graph;
    uint64_t stream;
    uint8_t parameter[PARAMETERS][8];
} Launch;

typedef struct {
    int count;
    Launch launch[];
} Graph;

__thread int standin_device; /* the thread's current one; the runtime sets it */

/* Milliseconds: until when the device has work, and what a kernel and a gigabyte copied on it take. */
double standin_busy_until, standin_kernel_time, standin_copy_time;

double standin_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
}

void standin_enqueue(double length) {
    double now = standin_now();
    standin_busy_until = (standin_busy_until > now ? standin_busy_until : now) + length;
}

void standin_pace(double kernel_time, double copy_time) {
    standin_kernel_time = kernel_time, standin_copy_time = copy_time, standin_busy_until = 0;
}

static Launch launches[KEPT]; /* the last ones, in a ring */
static uint64_t captured_stream; /* 0 if none is */
static Graph *captured;          /* NULL if something was done that no graph can hold */
static uint64_t launched;
static intptr_t modules;
static void *context;
static void (*loaded)(int module, const void *image);
static void (*found)(int module, const char *name, Kernel *kernel);

uint64_t standin_launched(void) { return launched; }
const Launch *standin_launch(uint64_t number) { return &launches[number % KEPT]; }
void standin_callbacks(void *on_loaded, void *on_found) { loaded = on_loaded, found = on_found; }

int cuInit(unsigned flags) { return SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
int cuCtxGetCurrent(void **current) { return *current = context, SUCCESS; }
int cuCtxSetCurrent(void *next) { return context = next, SUCCESS; }
int cuDevicePrimaryCtxRetain(void **primary, int device) { return *primary = &context, SUCCESS; }
int cuModuleUnload(void *module) { return SUCCESS; }
int cuGetErrorName(int code, const char **name) { return *name = code == TOO_LARGE ? "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE" : "CUDA_ERROR_INVALID_VALUE", SUCCESS; }
int cuGetErrorString(int code, const char **text) { return *text = "refused by the stand-in driver", SUCCESS; }

uint64_t standin_captured(void) { return captured_stream; }

void standin_spoil(void) {
    free(captured);
    captured = NULL;
}

int standin_begin(uint64_t stream) {
    if (stream <= 2 || captured_stream) return CAPTURE_UNSUPPORTED; /* 0, 1, 2 are the default streams */
    captured_stream = stream, captured = calloc(1, sizeof(Graph));
    return SUCCESS;
}

int standin_end(uint64_t stream, Graph **graph) {
    if (stream != captured_stream) return INVALID_VALUE;
    *graph = captured, captured_stream = 0, captured = NULL;
    return *graph ? SUCCESS : CAPTURE_INVALIDATED;
}

Graph *standin_instantiate(const Graph *graph) {
    size_t size = sizeof(Graph) + graph->count * sizeof(Launch);
    return memcpy(malloc(size), graph, size);
}

void standin_launch_graph(const Graph *graph, uint64_t stream) {
    for (int i = 0; i < graph->count; i++) {
        launches[launched % KEPT] = graph->launch[i];
        launches[launched++ % KEPT].stream = stream;
        standin_enqueue(standin_kernel_time);
    }
}

int cuModuleLoadData(void **module, const void *image) {
    if (captured_stream) return standin_spoil(), CAPTURE_UNSUPPORTED;
    *module = (void *)++modules;
    loaded((int)modules, image);
    return SUCCESS;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    Kernel *kernel = calloc(1, sizeof(Kernel));
    kernel->module = (int)(intptr_t)module;
    kernel->dynamic_shared_size = WITHOUT_ASKING;
    found(kernel->module, name, kernel);
    *function = kernel;
    return SUCCESS;
}

int cuFuncSetAttribute(void *function, int attribute, int value) {
    if (attribute == DYNAMIC_SHARED_SIZE) ((Kernel *)function)->dynamic_shared_size = value;
    return SUCCESS;
}

/* By threads, registers and shared memory of an sm_90, in the units in which it hands them out. */
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *function, int threads, size_t shared_bytes) {
    int warps = (threads + 31) / 32, registers = (((const Kernel *)function)->registers * 32 + 255) / 256 * 256;
    int by_threads = 64 / warps, by_registers = 65536 / registers / 4 * 4 / warps;
    int by_shared = (int)((228 << 10) / ((shared_bytes + 1024 + 127) / 128 * 128));
    *blocks = by_threads < by_registers ? by_threads : by_registers;
    if (by_shared < *blocks) *blocks = by_shared;
    return SUCCESS;
}

static int keep(const Kernel *kernel, const uint32_t *shape, uint32_t shared_bytes, void *stream, void **parameters,
                int cooperative) {
    /* As a driver does: an empty axis, or more shared memory than was asked for, is an error. */
    for (int axis = 0; axis < 6; axis++)
        if (shape[axis] == 0) return INVALID_VALUE;
    if ((int)shared_bytes > kernel->dynamic_shared_size) return INVALID_VALUE;
    int into_graph = captured_stream && (uint64_t)stream == captured_stream;
    if (into_graph && !captured) return CAPTURE_INVALIDATED;
    if (into_graph) captured = realloc(captured, sizeof(Graph) + (captured->count + 1) * sizeof(Launch));
    Launch *launch = into_graph ? &captured->launch[captured->count++] : &launches[launched++ % KEPT];
    launch->kernel = kernel, launch->in_graph = into_graph;
    memcpy(launch->grid, shape, sizeof launch->grid);
    memcpy(launch->block, shape + 3, sizeof launch->block);
    launch->shared_bytes = shared_bytes, launch->stream = (uint64_t)stream, launch->cooperative = cooperative, launch->device = standin_device;
    if (!into_graph) standin_enqueue(standin_kernel_time);
    for (int i = 0; i < kernel->count; i++) memcpy(launch->parameter[i], parameters[i], kernel->size[i]);
    return SUCCESS;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, void *stream, void **parameters,
                   void **extra) {
    uint32_t shape[6] = {grid_x, grid_y, grid_z, block_x, block_y, block_z};
    return keep(function, shape, shared_bytes, stream, parameters, 0);
}

int cuLaunchCooperativeKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                              unsigned block_y, unsigned block_z, unsigned shared_bytes, void *stream,
                              void **parameters) {
    uint32_t shape[6] = {grid_x, grid_y, grid_z, block_x, block_y, block_z};
    int blocks;
    cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, block_x * block_y * block_z, shared_bytes);
    if ((uint64_t)grid_x * grid_y * grid_z > (uint64_t)blocks * MULTIPROCESSORS) return TOO_LARGE;
    return keep(function, shape, shared_bytes, stream, parameters, 1);
}
