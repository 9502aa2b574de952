/* See libraries.h. */
#include "libraries.h"

#include <dlfcn.h>
#include <stdio.h>

struct libraries libraries;

static char reason[400];

static void *loaded(const char *path) {
    return dlopen(path, RTLD_LAZY | RTLD_NOLOAD); /* the module is loaded: this finds it, and what it is linked with */
}

const char *libraries_load(const char *rdkafka_user, const char *libpq_user) {
    void *rdkafka = loaded(rdkafka_user);
    void *libpq = loaded(libpq_user);
    if (!rdkafka || !libpq) {
        snprintf(reason, sizeof reason, "%.300s is not loaded as a shared library", rdkafka ? libpq_user : rdkafka_user);
        return reason;
    }
#define FIND(library, name)                                                                              \
    if (!(*(void **)&libraries.name = dlsym(library, #name))) {                                          \
        snprintf(reason, sizeof reason, "the loaded " #library " has no function " #name);               \
        return reason;                                                                                   \
    }
#define FIND_RDKAFKA(type, name, parameters) FIND(rdkafka, name)
#define FIND_LIBPQ(type, name, parameters) FIND(libpq, name)
    RDKAFKA_FUNCTIONS(FIND_RDKAFKA)
    LIBPQ_FUNCTIONS(FIND_LIBPQ)
    int version = libraries.rd_kafka_version();
    if (version < RDKAFKA_OLDEST || version >= RDKAFKA_BEYOND) {
        snprintf(reason, sizeof reason, "the loaded librdkafka is version %#x, and this package was written for 2.x", version);
        return reason;
    }
    if (libraries.PQlibVersion() < LIBPQ_OLDEST) {
        snprintf(reason, sizeof reason, "the loaded libpq is version %d, older than 14", libraries.PQlibVersion());
        return reason;
    }
    return NULL;
}
