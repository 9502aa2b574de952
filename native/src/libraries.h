/* The functions of librdkafka and libpq that this package calls.
 *
 * Nothing is linked: `libraries_load` finds each function in the libraries that confluent-kafka and psycopg have loaded already,
 * so a process never has two of them. Only what is used is declared here, copied by hand from
 *   librdkafka: src/rdkafka.h (soname librdkafka.so.1; the layouts below are unchanged from 1.5 to 2.16)
 *   libpq:      src/interfaces/libpq/libpq-fe.h (soname libpq.so.5)
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define RDKAFKA_OLDEST 0x02000000 /* rd_kafka_version() must lie within: 2.0.0 … */
#define RDKAFKA_BEYOND 0x03000000 /* … and before 3.0.0, which may change the layouts below */
#define LIBPQ_OLDEST 140000       /* PQlibVersion(): what psycopg 3.3 supports */

typedef struct rd_kafka_s rd_kafka_t;
typedef struct rd_kafka_conf_s rd_kafka_conf_t;
typedef struct rd_kafka_topic_s rd_kafka_topic_t;
typedef struct rd_kafka_topic_conf_s rd_kafka_topic_conf_t;
typedef struct rd_kafka_queue_s rd_kafka_queue_t;
typedef struct rd_kafka_headers_s rd_kafka_headers_t;
typedef struct rd_kafka_error_s rd_kafka_error_t;
typedef struct pg_conn PGconn;

typedef struct {
    int err; /* rd_kafka_resp_err_t */
    rd_kafka_topic_t *rkt;
    int32_t partition;
    void *payload;
    size_t len;
    void *key;
    size_t key_len;
    int64_t offset;
    void *_private; /* what was given as RD_KAFKA_VTYPE_OPAQUE */
} rd_kafka_message_t;

enum {
    RD_KAFKA_VTYPE_RKT = 2,
    RD_KAFKA_VTYPE_PARTITION,
    RD_KAFKA_VTYPE_VALUE,
    RD_KAFKA_VTYPE_KEY,
    RD_KAFKA_VTYPE_OPAQUE,
    RD_KAFKA_VTYPE_MSGFLAGS,
    RD_KAFKA_VTYPE_TIMESTAMP,
    RD_KAFKA_VTYPE_HEADER,
    RD_KAFKA_VTYPE_HEADERS
};

typedef struct {
    int vtype;
    union {
        rd_kafka_topic_t *rkt;
        int i;
        int32_t i32;
        int64_t i64;
        struct {
            const void *ptr;
            size_t size;
        } mem;
        struct {
            const char *name;
            const void *val;
            ssize_t size;
        } header;
        rd_kafka_headers_t *headers;
        void *ptr;
        char _pad[64];
    } u;
} rd_kafka_vu_t;

struct rd_kafka_metadata_topic {
    char *topic;
    int partition_cnt;
    void *partitions;
    int err;
};

typedef struct {
    int broker_cnt;
    void *brokers;
    int topic_cnt;
    struct rd_kafka_metadata_topic *topics;
    int32_t orig_broker_id;
    char *orig_broker_name;
} rd_kafka_metadata_t;

enum {
    RD_KAFKA_PRODUCER = 0,
    RD_KAFKA_MSG_F_COPY = 2,
    RD_KAFKA_PURGE_F_QUEUE = 1,
    RD_KAFKA_PURGE_F_INFLIGHT = 2,
    RD_KAFKA_RESP_ERR__FATAL = -150,
    RD_KAFKA_RESP_ERR__INCONSISTENT = -149,
    RD_KAFKA_RESP_ERR__QUEUE_FULL = -184,
    RD_KAFKA_RESP_ERR__DESTROY = -197,
    RD_KAFKA_RESP_ERR__INVALID_ARG = -186
};

typedef void dr_msg_cb_t(rd_kafka_t *, const rd_kafka_message_t *, void *);
typedef void error_cb_t(rd_kafka_t *, int, const char *, void *);
typedef void log_cb_t(const rd_kafka_t *, int, const char *, const char *);

#define RDKAFKA_FUNCTIONS(X)                                                                             \
    X(int, rd_kafka_version, (void))                                                                     \
    X(rd_kafka_conf_t *, rd_kafka_conf_new, (void))                                                      \
    X(void, rd_kafka_conf_destroy, (rd_kafka_conf_t *))                                                  \
    X(int, rd_kafka_conf_set, (rd_kafka_conf_t *, const char *, const char *, char *, size_t))           \
    X(void, rd_kafka_conf_set_opaque, (rd_kafka_conf_t *, void *))                                       \
    X(void, rd_kafka_conf_set_dr_msg_cb, (rd_kafka_conf_t *, dr_msg_cb_t *))                             \
    X(void, rd_kafka_conf_set_error_cb, (rd_kafka_conf_t *, error_cb_t *))                               \
    X(void, rd_kafka_conf_set_log_cb, (rd_kafka_conf_t *, log_cb_t *))                                   \
    X(rd_kafka_t *, rd_kafka_new, (int, rd_kafka_conf_t *, char *, size_t))                              \
    X(void, rd_kafka_destroy, (rd_kafka_t *))                                                            \
    X(void *, rd_kafka_opaque, (const rd_kafka_t *))                                                     \
    X(int, rd_kafka_set_log_queue, (rd_kafka_t *, rd_kafka_queue_t *))                                   \
    X(int, rd_kafka_poll, (rd_kafka_t *, int))                                                           \
    X(int, rd_kafka_flush, (rd_kafka_t *, int))                                                          \
    X(int, rd_kafka_purge, (rd_kafka_t *, int))                                                          \
    X(rd_kafka_error_t *, rd_kafka_produceva, (rd_kafka_t *, const rd_kafka_vu_t *, size_t))             \
    X(int, rd_kafka_error_code, (const rd_kafka_error_t *))                                              \
    X(const char *, rd_kafka_error_string, (const rd_kafka_error_t *))                                   \
    X(int, rd_kafka_error_is_fatal, (const rd_kafka_error_t *))                                          \
    X(void, rd_kafka_error_destroy, (rd_kafka_error_t *))                                                \
    X(const char *, rd_kafka_err2str, (int))                                                             \
    X(int, rd_kafka_last_error, (void))                                                                  \
    X(int, rd_kafka_fatal_error, (rd_kafka_t *, char *, size_t))                                         \
    X(rd_kafka_topic_t *, rd_kafka_topic_new, (rd_kafka_t *, const char *, rd_kafka_topic_conf_t *))     \
    X(void, rd_kafka_topic_destroy, (rd_kafka_topic_t *))                                                \
    X(rd_kafka_headers_t *, rd_kafka_headers_new, (size_t))                                              \
    X(void, rd_kafka_headers_destroy, (rd_kafka_headers_t *))                                            \
    X(int, rd_kafka_header_add, (rd_kafka_headers_t *, const char *, ssize_t, const void *, ssize_t))    \
    X(int, rd_kafka_metadata, (rd_kafka_t *, int, rd_kafka_topic_t *, const rd_kafka_metadata_t **, int))               \
    X(void, rd_kafka_metadata_destroy, (const rd_kafka_metadata_t *))                                                   \
    X(rd_kafka_error_t *, rd_kafka_sasl_set_credentials, (rd_kafka_t *, const char *, const char *))

#define LIBPQ_FUNCTIONS(X)                          \
    X(int, PQlibVersion, (void))                    \
    X(int, PQgetCopyData, (PGconn *, char **, int)) \
    X(int, PQconsumeInput, (PGconn *))              \
    X(char *, PQerrorMessage, (const PGconn *))     \
    X(void, PQfreemem, (void *))

#define POINTER(type, name, parameters) type(*name) parameters;

struct libraries {
    RDKAFKA_FUNCTIONS(POINTER)
    LIBPQ_FUNCTIONS(POINTER)
};

extern struct libraries libraries;
/* Filled once by `libraries_load`, before anything else of this package runs. */

const char *libraries_load(const char *rdkafka_user, const char *libpq_user);
/* Find every function through the two modules (paths of loaded shared objects that are linked with the libraries).
 * NULL, or why not: a text that lives as long as the process, or until the next call. */
