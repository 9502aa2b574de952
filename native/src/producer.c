/* See producer.h. */
#include "producer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct transaction *transaction_new(struct producer *producer, uint64_t lsn, int64_t commit_time) {
    struct transaction *transaction = calloc(1, sizeof *transaction);
    if (!transaction)
        abort(); /* 100 bytes: a process that cannot have them cannot log that either */
    transaction->lsn = transaction->last_lsn = lsn;
    transaction->commit_time = commit_time;
    transaction->whole = &producer->transactions;
    transaction->all = producer->transactions;
    if (transaction->all)
        transaction->all->whole = &transaction->all;
    producer->transactions = transaction;
    return transaction;
}

static void transaction_free(struct transaction *transaction) {
    *transaction->whole = transaction->all;
    if (transaction->all)
        transaction->all->whole = transaction->whole;
    free(transaction);
}

void transaction_release(struct transaction *transaction) {
    if (!transaction->held && !transaction->in_flight)
        transaction_free(transaction);
}

static void list(struct producer *producer, const struct flight *flight, const rd_kafka_message_t *message, int code) {
    size_t topic_length = strlen(flight->topic->name);
    struct report *report = malloc(sizeof *report + topic_length + message->key_len);
    if (!report)
        abort(); /* a failure that is not seen would be acknowledged */
    *report = (struct report){
        .lsn = flight->transaction->lsn, .last_lsn = flight->transaction->last_lsn, .code = code, .partition = message->partition,
        .size = message->len, .topic_length = topic_length, .key_length = message->key_len, .key_is_null = !message->key};
    memcpy(report->text, flight->topic->name, topic_length);
    if (message->key)
        memcpy(report->text + topic_length, message->key, message->key_len);
    *producer->last_report = report;
    producer->last_report = &report->next;
}

/* The report of one record. Called by librdkafka inside poll and flush. */
static void reported(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) {
    (void)rk;
    struct producer *producer = opaque;
    struct flight *flight = message->_private;
    struct transaction *transaction = flight->transaction;
    if (message->err || message->offset < 0) {
        /* A success without an offset is inferred from that of a later batch: whether the broker has this one is not known. */
        list(producer, flight, message, message->err ? message->err : RD_KAFKA_RESP_ERR__INCONSISTENT);
    } else {
        struct topic *topic = flight->topic;
        if (!topic->open)
            list(producer, flight, message, 0);
        transaction->outstanding--;
        topic->delivered++;
        topic->delivered_bytes += (int64_t)message->len;
        producer->delivered_bytes += (int64_t)flight->bytes;
        if (!topic->changed) {
            topic->changed = true;
            topic->next_changed = producer->changed;
            producer->changed = topic;
        }
    }
    flight->topic->in_flight--;
    producer->in_flight--;
    producer->bytes -= flight->bytes;
    flight->transaction = NULL;
    flight->free = producer->free;
    producer->free = flight;
    transaction->in_flight--;
    transaction_release(transaction);
}

static void note(struct producer *producer, int code, int level, bool fatal, const char *facility, const char *text) {
    size_t length = strlen(facility) + strlen(text) + 3;
    struct notice *notice = malloc(sizeof *notice + length);
    pthread_mutex_lock(&producer->lock);
    if (notice && producer->notice_count < NOTICES) {
        *notice = (struct notice){.code = code, .level = level, .fatal = fatal};
        snprintf(notice->text, length, "%s%s%s", facility, *facility ? ": " : "", text);
        *producer->last_notice = notice;
        producer->last_notice = &notice->next;
        producer->notice_count++;
    } else {
        free(notice);
    }
    pthread_mutex_unlock(&producer->lock);
}

static void erred(rd_kafka_t *rk, int code, const char *text, void *opaque) {
    char fatal[500];
    if (code == RD_KAFKA_RESP_ERR__FATAL) {
        code = libraries.rd_kafka_fatal_error(rk, fatal, sizeof fatal);
        note(opaque, code, -1, true, "", fatal);
    } else {
        note(opaque, code, -1, false, "", text);
    }
}

static void logged(const rd_kafka_t *rk, int level, const char *facility, const char *text) {
    note(libraries.rd_kafka_opaque(rk), 0, level, false, facility, text);
}

struct producer *producer_new(size_t limit, size_t bytes_limit) {
    struct producer *producer = calloc(1, sizeof *producer);
    if (!producer || !(producer->flights = calloc(limit, sizeof *producer->flights))) {
        free(producer);
        return NULL;
    }
    producer->limit = limit;
    producer->bytes_limit = bytes_limit;
    producer->last_report = &producer->reports;
    producer->last_notice = &producer->notices;
    pthread_mutex_init(&producer->lock, NULL);
    for (size_t i = limit; i-- > 0;) {
        producer->flights[i].free = producer->free;
        producer->free = &producer->flights[i];
    }
    return producer;
}

static void free_topics(struct producer *producer, bool all) {
    for (size_t i = 0; i < TOPICS; i++)
        for (struct topic **at = &producer->topics[i], *topic; (topic = *at);) {
            if (!all && (topic->in_flight || topic->changed)) {
                at = &topic->next;
                continue;
            }
            *at = topic->next;
            libraries.rd_kafka_topic_destroy(topic->handle);
            free(topic);
            producer->topic_count--;
        }
}

static void end_client(struct producer *producer) {
    if (!producer->rk)
        return;
    producer->changed = NULL;
    free_topics(producer, true);
    libraries.rd_kafka_purge(producer->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    libraries.rd_kafka_destroy(producer->rk); /* no report comes after this */
    producer->rk = NULL;
}

void producer_close(struct producer *producer) {
    end_client(producer);
    free(producer->flights);
    producer->flights = producer->free = NULL;
}

bool producer_open(struct producer *producer, rd_kafka_conf_t *conf, char *error, size_t error_size) {
    libraries.rd_kafka_conf_set_opaque(conf, producer);
    libraries.rd_kafka_conf_set_dr_msg_cb(conf, reported);
    libraries.rd_kafka_conf_set_error_cb(conf, erred);
    libraries.rd_kafka_conf_set_log_cb(conf, logged);
    libraries.rd_kafka_conf_set(conf, "log.queue", "true", NULL, 0);
    rd_kafka_t *rk = libraries.rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, error_size);
    if (!rk) { /* conf is not taken over then */
        libraries.rd_kafka_conf_destroy(conf);
        return false;
    }
    end_client(producer);
    producer->rk = rk;
    libraries.rd_kafka_set_log_queue(rk, NULL); /* log lines come with poll, too */
    return true;
}

void producer_free(struct producer *producer) {
    producer_close(producer);
    while (producer->transactions)
        transaction_free(producer->transactions);
    for (struct report *report = producer->reports, *next; report; report = next) {
        next = report->next;
        free(report);
    }
    for (struct notice *notice = producer->notices, *next; notice; notice = next) {
        next = notice->next;
        free(notice);
    }
    pthread_mutex_destroy(&producer->lock);
    free(producer);
}

static struct topic **bucket_of(const struct producer *producer, const char *name, size_t length) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)name[i]) * 1099511628211u;
    return (struct topic **)&producer->topics[hash % TOPICS];
}

struct topic *producer_find(const struct producer *producer, const char *name, size_t length) {
    struct topic *topic = *bucket_of(producer, name, length);
    while (topic && (strncmp(topic->name, name, length) || topic->name[length]))
        topic = topic->next;
    return topic;
}

struct topic *producer_topic(struct producer *producer, const char *name, size_t length) {
    struct topic *topic = producer_find(producer, name, length);
    if (topic)
        return topic;
    if (producer->topic_count >= TOPICS)
        free_topics(producer, false);
    if (!producer->rk || producer->topic_count >= TOPICS || !(topic = calloc(1, sizeof *topic + length + 1)))
        return NULL;
    memcpy(topic->name, name, length);
    topic->handle = libraries.rd_kafka_topic_new(producer->rk, topic->name, NULL);
    if (!topic->handle) {
        free(topic);
        return NULL;
    }
    struct topic **bucket = bucket_of(producer, name, length);
    topic->next = *bucket;
    *bucket = topic;
    producer->topic_count++;
    return topic;
}

static size_t size_of(const struct record *record) {
    size_t headers = record->headers ? record->header_bytes : 2 * HEADER_OVERHEAD + strlen(record->id_name) +
                     record->id.length + strlen(record->type_name) + record->type.length;
    return RECORD_OVERHEAD + record->key.length + record->value.length + headers;
}

int producer_produce(struct producer *producer, const struct record *record, struct transaction *transaction) {
    struct flight *flight = producer->free;
    size_t bytes = size_of(record);
    if (!producer->rk)
        return RD_KAFKA_RESP_ERR__DESTROY;
    if (!flight || (producer->in_flight && producer->bytes + bytes > producer->bytes_limit)) /* one finds room always */
        return RD_KAFKA_RESP_ERR__QUEUE_FULL;
    *flight = (struct flight){.transaction = transaction, .topic = record->topic, .free = flight->free, .bytes = bytes};
    rd_kafka_vu_t arguments[9];
    size_t count = 0;
#define ARGUMENT(kind, member, ...)                                                                      \
    do {                                                                                                 \
        arguments[count].vtype = RD_KAFKA_VTYPE_##kind;                                                  \
        arguments[count++].u.member = __VA_ARGS__;                                                       \
    } while (0)
    ARGUMENT(RKT, rkt, record->topic->handle);
    ARGUMENT(PARTITION, i32, record->partition);
    arguments[count].vtype = RD_KAFKA_VTYPE_KEY;
    arguments[count].u.mem.ptr = record->key.text;
    arguments[count++].u.mem.size = record->key.length;
    arguments[count].vtype = RD_KAFKA_VTYPE_VALUE;
    arguments[count].u.mem.ptr = record->value.text;
    arguments[count++].u.mem.size = record->value.length;
    ARGUMENT(TIMESTAMP, i64, record->timestamp);
    ARGUMENT(MSGFLAGS, i, RD_KAFKA_MSG_F_COPY);
    ARGUMENT(OPAQUE, ptr, flight);
    if (record->headers) {
        ARGUMENT(HEADERS, headers, record->headers);
    } else {
        arguments[count].vtype = RD_KAFKA_VTYPE_HEADER;
        arguments[count].u.header.name = record->id_name;
        arguments[count].u.header.val = record->id.text;
        arguments[count++].u.header.size = (ssize_t)record->id.length;
        arguments[count].vtype = RD_KAFKA_VTYPE_HEADER;
        arguments[count].u.header.name = record->type_name;
        arguments[count].u.header.val = record->type.text;
        arguments[count++].u.header.size = (ssize_t)record->type.length;
    }
    rd_kafka_error_t *refused = libraries.rd_kafka_produceva(producer->rk, arguments, count);
    if (refused) {
        int code = libraries.rd_kafka_error_is_fatal(refused) ? RD_KAFKA_RESP_ERR__FATAL : libraries.rd_kafka_error_code(refused);
        libraries.rd_kafka_error_destroy(refused);
        flight->transaction = NULL;
        return code;
    }
    producer->free = flight->free;
    producer->in_flight++;
    producer->bytes += bytes;
    transaction->events++;
    transaction->outstanding++;
    transaction->in_flight++;
    record->topic->in_flight++;
    return 0;
}

void producer_poll(struct producer *producer, int milliseconds) {
    if (producer->rk)
        libraries.rd_kafka_poll(producer->rk, milliseconds);
}

void producer_flush(struct producer *producer, int milliseconds) {
    if (producer->rk)
        libraries.rd_kafka_flush(producer->rk, milliseconds);
}

struct report *producer_reports(struct producer *producer) {
    struct report *reports = producer->reports;
    producer->reports = NULL;
    producer->last_report = &producer->reports;
    return reports;
}

struct notice *producer_notices(struct producer *producer) {
    pthread_mutex_lock(&producer->lock);
    struct notice *notices = producer->notices;
    producer->notices = NULL;
    producer->last_notice = &producer->notices;
    producer->notice_count = 0;
    pthread_mutex_unlock(&producer->lock);
    return notices;
}
