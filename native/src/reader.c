/* See reader.h. */
#include "reader.h"

#include <string.h>

#define BEGIN_BYTES (XLOGDATA_HEADER + 21)
#define COMMIT_BYTES (XLOGDATA_HEADER + 26)
#define POSTGRES_EPOCH_MILLISECONDS 946684800000 /* 2000-01-01 UTC */

void reader_init(struct reader *reader, struct producer *producer, PGconn *connection) {
    memset(reader, 0, sizeof *reader);
    reader->producer = producer;
    reader->connection = connection;
    reader->end = &reader->first;
}

static int find(const struct reader *reader, uint32_t oid) {
    for (int i = 0; i < reader->layout_count; i++)
        if (reader->layouts[i].oid == oid)
            return i;
    return -1;
}

int reader_layout(struct reader *reader, const struct layout *layout) {
    int i = find(reader, layout->oid);
    if (i < 0 && reader->layout_count < LAYOUTS)
        i = reader->layout_count++;
    if (i < 0)
        return -1;
    reader->layouts[i] = *layout;
    reader->stale[i] = false;
    return i;
}

static void leave(struct reader *reader, struct transaction *transaction) {
    transaction->held = true; /* until reader_next has given it away */
    transaction->next = NULL;
    *reader->end = transaction;
    reader->end = &transaction->next;
}

/* Close the group for the ledger: no more transactions are added to it. */
static void close_group(struct reader *reader) {
    if (reader->group && !reader->open)
        leave(reader, reader->group);
    if (!reader->open)
        reader->group = NULL;
}

/* Everything taken so far is for the ledger, the open transaction as well: something comes that Python has to know it for. */
static void settle(struct reader *reader) {
    struct transaction *group = reader->group;
    if (!reader->open || reader->announced) {
        if (!reader->announced)
            close_group(reader);
        return;
    }
    reader->announced = true;
    if (!group->end_lsn) { /* it is alone in its group */
        group->transactions = 1;
        leave(reader, group);
        return;
    }
    /* The closed ones end where they end. Rows of the open one that are among them delay them, and are part of what is isolated if
     * one is refused; those that follow are counted on an entry of their own, behind. */
    struct transaction *open = transaction_new(reader->producer, reader->lsn, reader->commit_time);
    open->transactions = !reader->had_rows;
    group->transactions += reader->had_rows;
    leave(reader, group);
    leave(reader, open);
    reader->group = open;
}

static bool begin(struct reader *reader, int64_t now) {
    const char *at = reader->message + XLOGDATA_HEADER;
    if (reader->open || reader->length != BEGIN_BYTES)
        return false;
    uint64_t lsn = big_endian_u64(at + 1);
    int64_t microseconds = (int64_t)big_endian_u64(at + 9);
    int64_t commit_time = microseconds / 1000 - (microseconds % 1000 < 0) + POSTGRES_EPOCH_MILLISECONDS;
    if (lsn <= reader->isolated)
        return false;
    struct transaction *group = reader->group;
    int64_t span = 1 + (group && now > group->commit_time ? (now - group->commit_time) / GROUP_AGE_FRACTION : 0);
    if (group && (group->events >= GROUP_EVENTS || commit_time - group->commit_time > span))
        close_group(reader);
    reader->open = true;
    reader->announced = reader->had_rows = false;
    reader->lsn = lsn;
    reader->commit_time = commit_time;
    if (!reader->group)
        reader->group = transaction_new(reader->producer, lsn, commit_time);
    reader->group->last_lsn = lsn;
    return true;
}

static bool commit(struct reader *reader) {
    const char *at = reader->message + XLOGDATA_HEADER;
    if (!reader->open || reader->announced || reader->length != COMMIT_BYTES)
        return false;
    uint64_t lsn = big_endian_u64(at + 2), end_lsn = big_endian_u64(at + 10);
    if (lsn != reader->lsn || end_lsn <= reader->last)
        return false; /* a protocol error, which Python raises */
    reader->group->end_lsn = reader->last = end_lsn;
    reader->group->transactions += reader->had_rows;
    reader->open = false;
    return true;
}

static bool insert(struct reader *reader) {
    struct plain plain;
    if (!reader->open || reader->length < XLOGDATA_HEADER + INSERT_HEADER)
        return false;
    int i = find(reader, big_endian_u32(reader->message + XLOGDATA_HEADER + 1));
    if (i < 0 || reader->stale[i] || !plain_read(&reader->layouts[i], reader->message, (size_t)reader->length, &plain))
        return false;
    struct record record = {
        .topic = producer_find(reader->producer, plain.topic, plain.topic_length),
        .key = plain.key, .value = plain.payload, .timestamp = reader->commit_time, .partition = -1,
        .id_name = reader->layouts[i].id_name, .type_name = reader->layouts[i].type_name, .id = plain.id, .type = plain.type};
    if (!record.topic || !record.topic->open || producer_produce(reader->producer, &record, reader->group))
        return false; /* full, or refused: Python's own attempt meets the same, and deals with it */
    reader->had_rows = true;
    reader->received[i]++;
    return true;
}

/* Whether the message could be taken. What a Begin or Commit of Python's means for the state here is noted by `handed_over`. */
static bool take(struct reader *reader, int64_t now) {
    if (reader->length <= XLOGDATA_HEADER || reader->message[0] != 'w' || reader->interrupted)
        return false;
    switch (reader->message[XLOGDATA_HEADER]) {
    case 'I':
        return insert(reader);
    case 'B':
        return begin(reader, now);
    case 'C':
        return commit(reader);
    default:
        return false;
    }
}

static void handed_over(struct reader *reader) {
    char kind = reader->length > XLOGDATA_HEADER && reader->message[0] == 'w' ? reader->message[XLOGDATA_HEADER] : 0;
    settle(reader);
    if (kind == 'C') { /* Python closes it, or raises */
        reader->open = reader->announced = false;
        reader->group = NULL;
    } else if (kind == 'R' && reader->length >= XLOGDATA_HEADER + 5) {
        int i = find(reader, big_endian_u32(reader->message + XLOGDATA_HEADER + 1));
        if (i >= 0)
            reader->stale[i] = true;
    }
    reader->interrupted = false;
}

static bool is_commit(const struct reader *reader) {
    return reader->message[0] == 'w' && reader->message[XLOGDATA_HEADER] == 'C';
}

enum portion reader_take(struct reader *reader, int limit, bool one_transaction, int64_t now) {
    bool asked = false;
    reader->bytes = reader->count = 0;
    while (limit > 0 && reader->bytes < PORTION_BYTES) {
        reader->length = libraries.PQgetCopyData(reader->connection, &reader->message, 1);
        if (reader->length > 0) {
            asked = false;
            limit--;
            reader->count++;
            reader->bytes += reader->length;
            if (!take(reader, now)) {
                handed_over(reader);
                return READER_MESSAGE;
            }
            if (one_transaction && is_commit(reader))
                limit = 0;
            reader_dispose(reader);
        } else if (reader->length == 0 && !asked) {
            asked = true;
            if (!libraries.PQconsumeInput(reader->connection)) {
                settle(reader);
                return READER_BROKEN;
            }
        } else {
            int length = reader->length;
            settle(reader);
            return length == 0 ? READER_EMPTY : length == -1 ? READER_OVER : READER_BROKEN;
        }
    }
    settle(reader);
    return READER_FULL;
}

struct transaction *reader_next(struct reader *reader) {
    struct transaction *transaction = reader->first;
    if (transaction && !(reader->first = transaction->next))
        reader->end = &reader->first;
    return transaction;
}

void reader_dispose(struct reader *reader) {
    if (reader->message)
        libraries.PQfreemem(reader->message);
    reader->message = NULL;
}
