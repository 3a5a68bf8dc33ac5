/* The machine that the scenario file describes, and the rules for single calls. See fakenvml.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_LINES 1024
#define MAX_DEVICES 128

enum { OK = 0, UNINITIALIZED = 1, BAD_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_FUNCTION = 13,
       BAD_VERSION = 25 };

typedef struct { char prefix[32]; char who[16]; int gpu; int mig; int memory_calls; } Device;
typedef struct { char function[64]; char who[16]; int calls; } Counter;
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } Process;

static char keys[MAX_LINES][64], values[MAX_LINES][512];
static int num_lines, loaded, started;
static Device devices[MAX_DEVICES];
static int num_devices;
static Counter counters[512];
static int num_counters;

static void load(void) {
    const char *path = getenv("VRAMPLAN_FAKE_NVML");
    char line[640];
    FILE *file;
    if (loaded || !path || !(file = fopen(path, "r"))) return;
    while (num_lines < MAX_LINES && fgets(line, sizeof line, file)) {
        char *space;
        line[strcspn(line, "\r\n")] = 0;
        if (!(space = strchr(line, ' '))) continue;
        *space = 0;
        snprintf(keys[num_lines], sizeof keys[0], "%.63s", line);
        snprintf(values[num_lines], sizeof values[0], "%.511s", space + 1);
        num_lines++;
    }
    fclose(file);
    loaded = 1;
}

static const char *find(const char *key) {
    for (int i = 0; i < num_lines; i++)
        if (!strcmp(keys[i], key)) return values[i];
    return NULL;
}

static const char *device_value(const Device *device, const char *field) {
    char key[96];
    const char *value;
    snprintf(key, sizeof key, "%s.%s", device->prefix, field);
    if ((value = find(key))) return value;
    snprintf(key, sizeof key, "default.%s", field);
    return find(key);
}

/* The rule for one call: counts it, sleeps if told to, returns the code it has to fail with. */
static int enter(const char *function, const char *who) {
    Counter *counter = NULL;
    int code = OK;
    for (int i = 0; i < num_counters && !counter; i++)
        if (!strcmp(counters[i].function, function) && !strcmp(counters[i].who, who)) counter = &counters[i];
    if (!counter && num_counters < 512) {
        counter = &counters[num_counters++];
        snprintf(counter->function, sizeof counter->function, "%s", function);
        snprintf(counter->who, sizeof counter->who, "%s", who);
    }
    if (counter) counter->calls++;
    for (int i = 0; i < num_lines; i++) {
        char name[64], device[16];
        int first, last, number;
        if (!strcmp(keys[i], "missing") && !strcmp(values[i], function)) return NO_FUNCTION;
        if (strcmp(keys[i], "fault") && strcmp(keys[i], "slow")) continue;
        if (sscanf(values[i], "%63s %15s %d %d %d", name, device, &first, &last, &number) != 5) continue;
        if (strcmp(name, function) || (strcmp(device, "*") && strcmp(device, who))) continue;
        if (!counter || counter->calls < first || (last && counter->calls > last)) continue;
        if (!strcmp(keys[i], "slow")) {
            struct timespec pause = {number / 1000, (number % 1000) * 1000000L};
            nanosleep(&pause, NULL);
        } else {
            code = number;
        }
    }
    return code;
}

static Device *device_at(int gpu, int mig) {
    Device *device;
    for (int i = 0; i < num_devices; i++)
        if (devices[i].gpu == gpu && devices[i].mig == mig) return &devices[i];
    if (num_devices == MAX_DEVICES) return NULL;
    device = &devices[num_devices++];
    device->gpu = gpu;
    device->mig = mig;
    if (mig < 0) {
        snprintf(device->prefix, sizeof device->prefix, "gpu.%d", gpu);
        snprintf(device->who, sizeof device->who, "%d", gpu);
    } else {
        snprintf(device->prefix, sizeof device->prefix, "gpu.%d.mig.%d", gpu, mig);
        snprintf(device->who, sizeof device->who, "%d.%d", gpu, mig);
    }
    return device;
}

static int gpu_count(void) {
    const char *count = find("count");
    return count ? atoi(count) : 1;
}

static unsigned long long nth(const char *list, int n) {
    unsigned long long value = strtoull(list, (char **)&list, 10);
    while (n-- > 0 && *list == ',') value = strtoull(list + 1, (char **)&list, 10);
    return value;
}

#define ENTER(who)                                   \
    int code;                                        \
    load();                                          \
    if (!started) return UNINITIALIZED;              \
    if ((code = enter(__func__, who)) != OK) return code;
