/* Records to Kafka, and every delivery report counted, without the interpreter.
 *
 * In: records and the transactions they belong to. Out: counts on transactions and topics, failures, what librdkafka noticed.
 * Never: a success that names no offset (KAFKA-15591), a report without its own look, more in flight than the bounds allow.
 *
 * One thread uses a producer. Reports are served inside `producer_poll` and `producer_flush` on that thread; only `producer_log`
 * may run on a thread of librdkafka, so the list of notices has a lock.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "libraries.h"
#include "plain.h"

#define RECORD_OVERHEAD 512
#define HEADER_OVERHEAD 64
/* Bytes that a record in flight, and each of its headers, takes beside key, value, names and contents: cdc_outbox/kafka/weight.py. */

#define TOPICS 1000
/* Topics that have a handle, which makes producing independent of their number. Beyond it, idle ones give up theirs. */

#define NOTICES 1000
/* Most errors and log lines kept until they are read: bounds the memory of a storm. */

struct transaction { /* or a group of small ones: what the acknowledgement ledger has one entry for */
    struct transaction *next;          /* of those that are closed and not in the ledger yet */
    struct transaction *all, **whole;  /* the list of all of one producer, to end with it */
    uint64_t lsn, last_lsn;            /* commit LSNs of the first and the last */
    uint64_t end_lsn;                  /* of the last Commit; 0: open */
    int64_t commit_time;               /* of the first, Unix milliseconds */
    int64_t transactions;              /* those of them that have events */
    int64_t events, outstanding;       /* records handed over, and those without a good report */
    int64_t in_flight;                 /* records whose report has not come: they point here */
    int64_t sequence;                  /* for Python: number of the last event that was numbered … */
    bool isolated;                     /* … and whether each record goes alone */
    bool held;                         /* an object of the interpreter points here */
};

struct topic {
    struct topic *next, *next_changed;
    rd_kafka_topic_t *handle;
    bool open;                          /* Python has produced to it: it exists, may be written to, and each of its partitions
                                         * has a record of this producer (first_records.py) */
    int64_t in_flight;
    int64_t delivered, delivered_bytes; /* since `changed` was last taken */
    bool changed;
    char name[];
};

struct flight { /* one record in flight */
    struct transaction *transaction; /* NULL: the place is free */
    struct topic *topic;
    struct flight *free;
    size_t bytes;
};

struct report { /* a delivery that failed, or one to a topic that is not open */
    struct report *next;
    uint64_t lsn, last_lsn;
    int code;                      /* 0: delivered */
    int32_t partition;
    size_t size, topic_length, key_length;
    bool key_is_null;
    char text[]; /* the topic, then the key */
};

struct notice { /* from error_cb (level -1) or log_cb */
    struct notice *next;
    int code, level;
    bool fatal;
    char text[];
};

struct record {
    struct topic *topic;
    struct cell key, value;
    int64_t timestamp;
    int32_t partition;
    const char *id_name, *type_name;
    struct cell id, type;          /* the two headers of a plain row; ignored when there are `headers` */
    rd_kafka_headers_t *headers;   /* taken over on success */
    size_t header_bytes;
};

struct producer {
    rd_kafka_t *rk;
    struct flight *flights, *free;
    size_t limit;                  /* records in flight at most */
    size_t in_flight;
    size_t bytes, bytes_limit;     /* in flight: everything that is kept counts */
    int64_t delivered_bytes;       /* the same, of what was delivered */
    struct topic *topics[TOPICS], *changed;
    size_t topic_count;
    struct transaction *transactions;
    struct report *reports, **last_report;
    pthread_mutex_t lock;          /* of the notices */
    struct notice *notices, **last_notice;
    int notice_count;
};

struct producer *producer_new(size_t limit, size_t bytes_limit);
bool producer_open(struct producer *producer, rd_kafka_conf_t *conf, char *error, size_t error_size);
/* Take conf over, and go on with a librdkafka producer of that; only while nothing is in flight. False: `error` says why, and
 * everything is as it was. */
void producer_close(struct producer *producer);
/* End the client and its threads for good. Records in flight are forgotten; poll and flush do nothing, produce refuses. */
void producer_free(struct producer *producer);
/* Discards the records in flight, and ends librdkafka's threads. */

struct transaction *transaction_new(struct producer *producer, uint64_t lsn, int64_t commit_time);
void transaction_release(struct transaction *transaction);
/* Free it unless an object or a record in flight points to it. */

struct topic *producer_topic(struct producer *producer, const char *name, size_t length);
/* Find it, or make it. NULL: there are too many with records in flight, or librdkafka does not take the name. */
struct topic *producer_find(const struct producer *producer, const char *name, size_t length);
/* NULL: it was never made. */
int producer_produce(struct producer *producer, const struct record *record, struct transaction *transaction);
/* 0, or librdkafka's error code. RD_KAFKA_RESP_ERR__QUEUE_FULL: no room; serve, and try again. */
void producer_poll(struct producer *producer, int milliseconds);
void producer_flush(struct producer *producer, int milliseconds);
struct report *producer_reports(struct producer *producer);
struct notice *producer_notices(struct producer *producer);
/* Take the list, oldest first; each of it is the caller's, to be given to free(). */
