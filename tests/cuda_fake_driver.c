/* A driver whose device is this processor: kernels are those of an emulation, memory is the host's. EMULATION names it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef const char *(*kernel_t)(const void *arguments, const unsigned *grid, size_t shared, unsigned order, void *counted);

static void *context, *emulation;
const char *fake_fault = "";
int fake_launches, fake_bytes, fake_major = 8, fake_minor = 7, fake_contexts;

int cuInit(unsigned flags) { return (int)flags; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? fake_major : fake_minor;
    return device;
}
int cuDevicePrimaryCtxRetain(void **found, int device) { return *found = &context, ++fake_contexts, device; }
int cuDevicePrimaryCtxRelease_v2(int device) { return --fake_contexts, context = NULL, device; }
int cuCtxGetCurrent(void **found) { return *found = context, 0; }
int cuCtxSetCurrent(void *wanted) { return context = wanted, 0; }
int cuCtxGetDevice(int *device) { return *device = 0, 0; }
int cuModuleLoadData(void **module, const void *image) {
    if (memcmp(image, "cubin", 5)) return 200;
    emulation = dlopen(EMULATION, RTLD_NOW);
    *module = emulation;
    return emulation ? 0 : 1;
}
int cuGetErrorString(int status, const char **text) { return *text = "refused", !status; }
int cuModuleUnload(void *module) { return dlclose(module); }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    static char none;
    *function = dlsym(module, name);
    if (!*function) *function = &none; /* the test compiles only what it runs */
    return 0;
}
int cuFuncSetAttribute(void *function, int attribute, int value) { return !function || attribute != 8 || value < 0; }
int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    void *memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
    *address = (uint64_t)(uintptr_t)memory;
    fake_bytes += (int)bytes;
    return memory ? 0 : 2;
}
int cuMemFree_v2(uint64_t address) { return free((void *)(uintptr_t)address), 0; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t bytes) {
    return memcpy((void *)(uintptr_t)to, from, bytes), 0;
}
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared, void *stream, void **parameters, void **extra) {
    const unsigned grid[3] = {x, y, z};
    kernel_t kernel;
    const char *fault;
    if (!threads || threads_y != 1 || threads_z != 1 || extra || stream) return 1;
    memcpy(&kernel, &function, sizeof kernel);
    fault = kernel(parameters[0], grid, shared, 0, NULL);
    fake_fault = fault ? fault : "";
    ++fake_launches;
    return fault ? 700 : 0;
}
