/* A libnvidia-ml of our own, for tests: the unmodified nvidia-ml-py loads it as it would load the driver's.
 *
 * The file named by VRAMPLAN_FAKE_NVML says what the machine looks like, one "key value" a line:
 *
 *   count 2                                  GPUs
 *   driver 590.48.01
 *   init 12                                  the code that nvmlInit returns
 *   gpu.0.name NVIDIA H100 80GB HBM3         any per-device key: see the functions below
 *   gpu.0.used 1000,2000,3000                a list gives one value a call; the last one stays
 *   gpu.0.processes 100:5000 101:-           "pid:bytes", "-" for a driver that does not say
 *   gpu.0.processes_file /tmp/x              the same, one a line, read again at every call
 *   gpu.0.mig.1.name ...                     MIG instance 1 of GPU 0
 *   default.total 85899345920                what every device has that does not say otherwise
 *   fault nvmlDeviceGetMemoryInfo_v2 0 3 0 15     function, device or *, first call, last call (0: for ever), code
 *   slow  nvmlDeviceGetMemoryInfo_v2 * 3 3 2000   the same, milliseconds
 *   missing nvmlDeviceGetMemoryInfo_v2            the function answers as one that this driver does not know
 *
 * A key that is absent is "not supported" (3).
 */
#include "scenario.h"

EXPORT int nvmlInitWithFlags(unsigned flags) {
    const char *init;
    int code;
    (void)flags;
    load();
    if ((code = enter(__func__, "*")) != OK) return code;
    if ((init = find("init")) && atoi(init)) return atoi(init);
    started++;
    return OK;
}
EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
EXPORT int nvmlShutdown(void) {
    ENTER("*");
    started--;
    return OK;
}
EXPORT const char *nvmlErrorString(int code) {
    switch (code) {
    case 1: return "Uninitialized";
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case 12: return "NVML Shared Library Not Found";
    case 13: return "Function Not Found";
    case 15: return "GPU is lost";
    case 18: return "RM has detected an NVML/RM version mismatch.";
    default: return "Unknown Error";
    }
}

static int text(const char *value, char *out, unsigned size) {
    if (!value) return NOT_SUPPORTED;
    if (strlen(value) >= size) return TOO_SMALL;
    strcpy(out, value);
    return OK;
}
EXPORT int nvmlSystemGetDriverVersion(char *out, unsigned size) { ENTER("*"); return text(find("driver"), out, size); }
EXPORT int nvmlSystemGetNVMLVersion(char *out, unsigned size) { ENTER("*"); return text(find("driver"), out, size); }
EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *out) { ENTER("*"); *out = 13010; return OK; }
EXPORT int nvmlSystemGetProcessName(unsigned pid, char *out, unsigned size) {
    char key[32];
    ENTER("*");
    snprintf(key, sizeof key, "process.%u", pid);
    return find(key) ? text(find(key), out, size) : NOT_FOUND;
}
EXPORT int nvmlDeviceGetCount_v2(unsigned *count) { ENTER("*"); *count = gpu_count(); return OK; }
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **out) {
    char who[16];
    snprintf(who, sizeof who, "%u", index);
    ENTER(who);
    if ((int)index >= gpu_count()) return BAD_ARGUMENT;
    *out = device_at(index, -1);
    return OK;
}
EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, Device **out) {
    ENTER("*");
    for (int i = 0; i < num_devices; i++) {
        const char *own = device_value(&devices[i], "uuid");
        if (own && !strcmp(own, uuid)) { *out = &devices[i]; return enter("handle", devices[i].who); }
    }
    return NOT_FOUND;
}
EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, Device **out) {
    ENTER("*");
    for (int i = 0; i < num_devices; i++) {
        const char *own = device_value(&devices[i], "pci");
        if (own && !strcmp(own, bus_id)) { *out = &devices[i]; return OK; }
    }
    return NOT_FOUND;
}

#define DEVICE_TEXT(function, field)                              \
    EXPORT int function(Device *device, char *out, unsigned size) { \
        ENTER(device->who);                                       \
        return text(device_value(device, field), out, size);      \
    }
DEVICE_TEXT(nvmlDeviceGetName, "name")
DEVICE_TEXT(nvmlDeviceGetUUID, "uuid")
DEVICE_TEXT(nvmlDeviceGetSerial, "serial")
DEVICE_TEXT(nvmlDeviceGetVbiosVersion, "vbios")

#define DEVICE_NUMBER(function, field)                   \
    EXPORT int function(Device *device, unsigned *out) { \
        const char *value;                               \
        ENTER(device->who);                              \
        if (!(value = device_value(device, field))) return NOT_SUPPORTED; \
        *out = (unsigned)strtoull(value, NULL, 0);       \
        return OK;                                       \
    }
DEVICE_NUMBER(nvmlDeviceGetPowerUsage, "power_mw")
DEVICE_NUMBER(nvmlDeviceGetEnforcedPowerLimit, "enforced_power_limit_mw")
DEVICE_NUMBER(nvmlDeviceGetPowerManagementLimit, "power_limit_mw")
DEVICE_NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, "power_default_limit_mw")
DEVICE_NUMBER(nvmlDeviceGetFanSpeed, "fan")
DEVICE_NUMBER(nvmlDeviceGetPerformanceState, "pstate")
DEVICE_NUMBER(nvmlDeviceGetPersistenceMode, "persistence")
DEVICE_NUMBER(nvmlDeviceGetComputeMode, "compute_mode")
DEVICE_NUMBER(nvmlDeviceGetDisplayActive, "display_active")
DEVICE_NUMBER(nvmlDeviceGetAccountingMode, "accounting")
DEVICE_NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_gen")
DEVICE_NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_gen_max")
DEVICE_NUMBER(nvmlDeviceGetGpuMaxPcieLinkGeneration, "pcie_gen_gpumax")
DEVICE_NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width")
DEVICE_NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max")
DEVICE_NUMBER(nvmlDeviceGetMaxMigDeviceCount, "mig_max")

#define DEVICE_TWO(function, field)                                     \
    EXPORT int function(Device *device, unsigned *first, unsigned *second) { \
        const char *value;                                              \
        ENTER(device->who);                                             \
        if (!(value = device_value(device, field))) return NOT_SUPPORTED; \
        return sscanf(value, "%u %u", first, second) == 2 ? OK : BAD_ARGUMENT; \
    }
DEVICE_TWO(nvmlDeviceGetEncoderUtilization, "encoder")
DEVICE_TWO(nvmlDeviceGetDecoderUtilization, "decoder")
DEVICE_TWO(nvmlDeviceGetJpgUtilization, "jpeg")
DEVICE_TWO(nvmlDeviceGetOfaUtilization, "ofa")
DEVICE_TWO(nvmlDeviceGetCudaComputeCapability, "compute_cap")
DEVICE_TWO(nvmlDeviceGetMigMode, "mig_mode")
DEVICE_TWO(nvmlDeviceGetEccMode, "ecc_mode")
DEVICE_TWO(nvmlDeviceGetPowerManagementLimitConstraints, "power_constraints_mw")

EXPORT int nvmlDeviceGetIndex(Device *device, unsigned *out) { ENTER(device->who); *out = device->gpu; return OK; }
/* Asked for by other tools in benchmarks/monitor.py, and answered as an idle Linux machine does. */
EXPORT int nvmlDeviceGetDisplayMode(Device *device, unsigned *out) { ENTER(device->who); *out = 0; return OK; }
EXPORT int nvmlDeviceGetPcieThroughput(Device *device, unsigned counter, unsigned *out) {
    ENTER(device->who);
    *out = counter;
    return OK;
}
EXPORT int nvmlDeviceGetTotalEccErrors(Device *device, unsigned type, unsigned counter, unsigned long long *out) {
    ENTER(device->who);
    *out = type & counter & 0;
    return OK;
}
EXPORT int nvmlDeviceGetDriverModel(Device *device, unsigned *now, unsigned *next) {
    ENTER(device->who);
    *now = *next = 0;
    return NOT_SUPPORTED;
}
EXPORT int nvmlDeviceGetProcessUtilization(Device *device, void *out, unsigned *count, unsigned long long since) {
    ENTER(device->who);
    (void)out, (void)since;
    *count = 0;
    return NOT_FOUND;
}

EXPORT int nvmlDeviceGetUtilizationRates(Device *device, unsigned *out) {
    const char *value;
    ENTER(device->who);
    if (!(value = device_value(device, "utilization"))) return NOT_SUPPORTED;
    return sscanf(value, "%u %u", &out[0], &out[1]) == 2 ? OK : BAD_ARGUMENT;
}
EXPORT int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *out) {
    const char *value;
    ENTER(device->who);
    if (sensor || !(value = device_value(device, "temperature"))) return NOT_SUPPORTED;
    *out = strtoul(value, NULL, 10);
    return OK;
}
static int clock_of(Device *device, const char *field, unsigned type, unsigned *out) {
    char key[32];
    const char *value;
    snprintf(key, sizeof key, "%s%u", field, type);
    if (!(value = device_value(device, key))) return NOT_SUPPORTED;
    *out = strtoul(value, NULL, 10);
    return OK;
}
EXPORT int nvmlDeviceGetClockInfo(Device *device, unsigned type, unsigned *out) {
    ENTER(device->who);
    return clock_of(device, "clock", type, out);
}
EXPORT int nvmlDeviceGetMaxClockInfo(Device *device, unsigned type, unsigned *out) {
    ENTER(device->who);
    return clock_of(device, "max_clock", type, out);
}
EXPORT int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *out) {
    const char *value;
    ENTER(device->who);
    if (!(value = device_value(device, "event_reasons"))) return NOT_SUPPORTED;
    *out = strtoull(value, NULL, 0);
    return OK;
}

/* nvmlFieldValue_t: what this file needs of it, laid out as nvml.h has it. */
typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned type;
    int result;
    union { double d; unsigned ui; unsigned long long ull; } value;
} FieldValue;
EXPORT int nvmlDeviceGetFieldValues(Device *device, int count, FieldValue *fields) {
    ENTER(device->who);
    for (int i = 0; i < count; i++) {
        char key[32];
        const char *value;
        snprintf(key, sizeof key, "field%u", fields[i].field);
        value = device_value(device, key);
        fields[i].result = value ? OK : NOT_SUPPORTED;
        fields[i].type = 1; /* unsigned int */
        fields[i].value.ui = value ? strtoul(value, NULL, 10) : 0;
    }
    return OK;
}

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;
EXPORT int nvmlDeviceGetPciInfo_v3(Device *device, Pci *out) {
    const char *value;
    ENTER(device->who);
    if (!(value = device_value(device, "pci"))) return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    snprintf(out->bus_id, sizeof out->bus_id, "%s", value);
    sscanf(value, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    if ((value = device_value(device, "pci_id"))) out->id = strtoul(value, NULL, 0);
    if ((value = device_value(device, "pci_sub_id"))) out->subsystem = strtoul(value, NULL, 0);
    return OK;
}

typedef struct { unsigned long long total, reserved, free, used; } Memory;
static int memory_of(Device *device, Memory *out) {
    const char *total = device_value(device, "total"), *reserved = device_value(device, "reserved");
    const char *used = device_value(device, "used"), *free_bytes = device_value(device, "free");
    if (!total || !used) return NOT_SUPPORTED;
    out->total = strtoull(total, NULL, 10);
    out->reserved = reserved ? strtoull(reserved, NULL, 10) : 0;
    out->used = nth(used, device->memory_calls++);
    out->free = free_bytes ? strtoull(free_bytes, NULL, 10) : out->total - out->reserved - out->used;
    return OK;
}
/* Version 1 counts what the driver keeps for itself as used; version 2 has it apart. */
EXPORT int nvmlDeviceGetMemoryInfo(Device *device, unsigned long long *out) {
    Memory memory;
    ENTER(device->who);
    if ((code = memory_of(device, &memory)) != OK) return code;
    out[0] = memory.total;
    out[1] = memory.free;
    out[2] = memory.used + memory.reserved;
    return OK;
}
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
EXPORT int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *out) {
    Memory memory;
    ENTER(device->who);
    if (out->version != (sizeof(MemoryV2) | 2u << 24)) return BAD_VERSION;
    if ((code = memory_of(device, &memory)) != OK) return code;
    out->total = memory.total;
    out->reserved = memory.reserved;
    out->free = memory.free;
    out->used = memory.used;
    return OK;
}

static int add_process(Process *out, const char *item) {
    const char *colon = strchr(item, ':');
    if (!colon) return 0;
    out->pid = strtoul(item, NULL, 10);
    out->used = colon[1] == '-' ? ~0ull : strtoull(colon + 1, NULL, 10);
    out->gi = out->ci = ~0u;
    return 1;
}
static int processes_of(Device *device, unsigned *count, Process *out, const char *field) {
    static Process found[256];
    char list[512], line[128], key[48], *item;
    const char *value;
    unsigned n = 0;
    FILE *file;
    if ((value = device_value(device, field))) {
        snprintf(list, sizeof list, "%s", value);
        for (item = strtok(list, " "); item && n < 256; item = strtok(NULL, " ")) n += add_process(&found[n], item);
    }
    snprintf(key, sizeof key, "%s_file", field);
    if ((value = device_value(device, key)) && (file = fopen(value, "r"))) {
        while (n < 256 && fgets(line, sizeof line, file)) n += add_process(&found[n], line);
        fclose(file);
    }
    if (n > *count) { *count = n; return TOO_SMALL; }
    memcpy(out, found, n * sizeof *out);
    *count = n;
    return OK;
}
EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, Process *out) {
    ENTER(device->who);
    return processes_of(device, count, out, "processes");
}
EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, unsigned *count, Process *out) {
    ENTER(device->who);
    return processes_of(device, count, out, "graphics_processes");
}

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **out) {
    char key[48];
    ENTER(device->who);
    snprintf(key, sizeof key, "gpu.%d.mig.%u.uuid", device->gpu, index);
    if (!find(key)) return NOT_FOUND;
    *out = device_at(device->gpu, index);
    return OK;
}
EXPORT int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device *device, Device **out) {
    ENTER(device->who);
    *out = device_at(device->gpu, -1);
    return OK;
}
EXPORT int nvmlDeviceIsMigDeviceHandle(Device *device, unsigned *out) { ENTER(device->who); *out = device->mig >= 0; return OK; }
