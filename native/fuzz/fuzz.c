/* The parser, the reader and the producer's accounts under AddressSanitizer, without servers: `make native-fuzz`.
 *
 * Streams are made at random: transactions of rows, plain and odd, keepalives, relations, mutated and cut messages. In place of
 * libpq and librdkafka stand the functions below: memory is given out in exact sizes, queues fill up, reports fail and come late.
 * What Python does with a message that is handed over is done here by `python`, and what the ledger does by `ledger`. Held:
 *   each row of a transaction is produced once, in order, by one of the two;
 *   the flush LSN never passes a row without a good report;
 *   an entry's `outstanding` is the number of its failures once all reports are in;
 *   nothing is read out of bounds, used after free, or left behind.
 *
 *     fuzz [SEED] [STREAMS]
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../src/reader.h"

#define ROWS 4000 /* of one stream */
#define OID 16401
#define CHANCE(n) (rand() % (n) == 0)

/* ---- librdkafka ---- */

struct sent { rd_kafka_message_t message; int row; };
static struct sent queue[64];
static int queue_first, queue_length;
static char good[ROWS]; /* rows whose reports were good */
static int next_row;    /* the row that must be produced next */
static dr_msg_cb_t *report;
static void *report_opaque;

static int conf_set(rd_kafka_conf_t *c, const char *n, const char *v, char *e, size_t s) { return 0; }
static void conf_opaque(rd_kafka_conf_t *c, void *opaque) { report_opaque = opaque; }
static void conf_dr(rd_kafka_conf_t *c, dr_msg_cb_t *callback) { report = callback; }
static void conf_error(rd_kafka_conf_t *c, error_cb_t *callback) {}
static void conf_log(rd_kafka_conf_t *c, log_cb_t *callback) {}
static rd_kafka_t *new(int t, rd_kafka_conf_t *c, char *e, size_t s) { return malloc(1); }
static int log_queue(rd_kafka_t *rk, rd_kafka_queue_t *q) { return 0; }
static int purge(rd_kafka_t *rk, int flags) { return 0; }
static void destroy(rd_kafka_t *rk) {
    for (; queue_length; queue_length--, queue_first++) {
        free(queue[queue_first % 64].message.payload);
        free(queue[queue_first % 64].message.key);
    }
    free(rk);
}
static rd_kafka_topic_t *topic_new(rd_kafka_t *rk, const char *name, rd_kafka_topic_conf_t *c) {
    return (rd_kafka_topic_t *)strdup(name);
}
static void topic_destroy(rd_kafka_topic_t *topic) { free(topic); }
static int error_code(const rd_kafka_error_t *error) { return *(const int *)error; }
static int error_is_fatal(const rd_kafka_error_t *error) { return *(const int *)error == -150; }
static void error_destroy(rd_kafka_error_t *error) { free(error); }

static void *copy(const void *from, size_t size) {
    void *to = from ? malloc(size) : NULL;
    return from ? memcpy(to, from, size) : NULL;
}

static rd_kafka_error_t *produceva(rd_kafka_t *rk, const rd_kafka_vu_t *arguments, size_t count) {
    struct sent sent = {0};
    if (queue_length == 64 || CHANCE(40)) {
        int code = queue_length == 64 || CHANCE(2) ? RD_KAFKA_RESP_ERR__QUEUE_FULL : -187;
        return copy(&code, sizeof code);
    }
    for (size_t i = 0; i < count; i++) {
        const rd_kafka_vu_t *a = &arguments[i];
        if (a->vtype == RD_KAFKA_VTYPE_OPAQUE)
            sent.message._private = a->u.ptr;
        if (a->vtype == RD_KAFKA_VTYPE_KEY) {
            sent.message.key = copy(a->u.mem.ptr, a->u.mem.size);
            sent.message.key_len = a->u.mem.size;
        }
        if (a->vtype == RD_KAFKA_VTYPE_VALUE) {
            sent.message.payload = copy(a->u.mem.ptr, a->u.mem.size);
            sent.message.len = a->u.mem.size;
            sent.row = (int)strtol(a->u.mem.ptr, NULL, 10);
        }
        if (a->vtype == RD_KAFKA_VTYPE_HEADER)
            free(copy(a->u.header.val, (size_t)a->u.header.size));
    }
    assert(sent.row == next_row);
    next_row++;
    queue[(queue_first + queue_length++) % 64] = sent;
    return NULL;
}

static int failures_expected;

static int poll_reports(rd_kafka_t *rk, int milliseconds) {
    int wanted = milliseconds ? queue_length : rand() % (queue_length + 1);
    for (int i = 0; i < wanted; i++, queue_first++, queue_length--) {
        struct sent *sent = &queue[queue_first % 64];
        sent->message.err = CHANCE(60) ? 10 : 0;
        sent->message.offset = CHANCE(60) ? -1001 : sent->row;
        if (sent->message.err || sent->message.offset < 0)
            failures_expected++;
        else
            good[sent->row] = 1;
        report(rk, &sent->message, report_opaque);
        free(sent->message.payload);
        free(sent->message.key);
    }
    return wanted;
}

/* ---- libpq ---- */

struct wire { char *message; int length; int row; uint64_t row_end; };
static struct wire *stream;
static int stream_length, stream_at, stream_ready;

static int get_copy_data(PGconn *connection, char **message, int async) {
    *message = NULL;
    if (stream_at == stream_length)
        return -1;
    if (stream_at == stream_ready)
        return 0;
    *message = copy(stream[stream_at].message, (size_t)stream[stream_at].length);
    return stream[stream_at++].length;
}
static int consume_input(PGconn *connection) {
    stream_ready += rand() % 20;
    if (stream_ready > stream_length)
        stream_ready = stream_length;
    return 1;
}

/* ---- a stream ---- */

static bool stream_is_bad; /* it holds a Commit that must not be believed */

static char *put(char *at, uint64_t value, int bytes) {
    for (int i = bytes - 1; i >= 0; i--)
        *at++ = (char)(value >> 8 * i);
    return at;
}
static char *put_cell(char *at, const char *text) {
    if (!text) {
        *at++ = 'n';
        return at;
    }
    *at++ = 't';
    at = put(at, strlen(text), 4);
    memcpy(at, text, strlen(text));
    return at + strlen(text);
}
static char *put_head(char *at) {
    *at++ = 'w';
    memset(at, 0, 24);
    return at + 24;
}
static void send(const char *from, const char *to, int row) {
    stream = realloc(stream, sizeof *stream * (size_t)(stream_length + 1));
    stream[stream_length++] = (struct wire){copy(from, (size_t)(to - from)), (int)(to - from), row, 0};
}

static const struct layout LAYOUT = {.oid = OID, .columns = 6, .id = 0, .key = 2, .type = 3, .payload = 4, .null_count = 1,
                                     .null = {5}, .id_name = "id", .type_name = "type",
                                     .piece_count = 2, .pieces = {{"outbox.", 7, 1}, {"", 0, -1}}};
static uint64_t row_end[ROWS]; /* end LSN of each row's transaction */

static void make_stream(void) {
    char buffer[1000], text[20], topic[20];
    uint64_t lsn = 1000;
    int64_t time = 800000000000000;
    int row = 0, transactions = 1 + rand() % 100;
    for (; transactions && row < ROWS - 600; transactions--) {
        int rows = CHANCE(10) ? rand() % 500 : rand() % 4;
        uint64_t commit = lsn + 1 + (uint64_t)(rand() % 1000);
        lsn = commit + 8;
        time += CHANCE(3) ? rand() % 3000000 : rand() % 300;
        char *at = put_head(buffer);
        *at++ = 'B';
        at = put(put(put(at, commit, 8), (uint64_t)time, 8), 7, 4);
        send(buffer, at, -1);
        for (int i = 0; i < rows; i++) {
            if (CHANCE(50)) { /* described again: the layout comes again with the next row */
                at = put_head(buffer);
                *at++ = 'R';
                at = put(at, OID, 4);
                send(buffer, at, -1);
            }
            snprintf(text, sizeof text, "%d", row);
            snprintf(topic, sizeof topic, "%s%d", CHANCE(40) ? "no topic " : "order", rand() % 3);
            at = put_head(buffer);
            *at++ = 'I';
            at = put(at, CHANCE(60) ? OID + 1 : OID, 4);
            *at++ = 'N';
            at = put(at, 6, 2);
            at = put_cell(put_cell(at, CHANCE(50) ? NULL : "id"), topic);
            at = put_cell(put_cell(at, CHANCE(5) ? NULL : "key"), "type");
            at = put_cell(put_cell(at, text), CHANCE(30) ? "{}" : NULL);
            row_end[row] = lsn;
            send(buffer, at, row++);
        }
        int bad = lsn > 2008 && CHANCE(300) ? 1 + rand() % 2 : 0; /* the LSN of no Begin, or an end that goes back */
        stream_is_bad |= bad != 0;
        at = put_head(buffer);
        *at++ = 'C';
        *at++ = 0;
        at = put(put(put(at, commit + (bad == 1), 8), bad == 2 ? 5 : lsn, 8), (uint64_t)time, 8);
        send(buffer, at, -1);
        if (CHANCE(4)) {
            lsn += 10;
            buffer[0] = 'k';
            at = put(put(put(buffer + 1, lsn, 8), 0, 8), 0, 1);
            send(buffer, at, -1);
        }
    }
}

/* ---- Python, and its ledger ---- */

static struct transaction *entries[ROWS * 2];
static int entry_first, entry_count;
static struct transaction *python_open;
static uint64_t ledger_last, flush_lsn, isolated;
static bool protocol_error;

static void append(struct transaction *transaction) {
    assert(!python_open);
    entries[entry_count++] = transaction;
    if (!transaction->end_lsn) {
        python_open = transaction;
    } else {
        assert(transaction->end_lsn > ledger_last);
        assert(transaction->lsn <= transaction->last_lsn);
        ledger_last = transaction->end_lsn;
    }
}

static void advance(void) {
    while (entry_first < entry_count && !entries[entry_first]->outstanding && entries[entry_first]->end_lsn) {
        struct transaction *done = entries[entry_first++];
        assert(done->end_lsn > flush_lsn);
        flush_lsn = done->end_lsn;
        done->held = false;
        transaction_release(done);
    }
    for (int row = 0; row < ROWS && row_end[row] && row_end[row] <= flush_lsn; row++)
        assert(good[row]);
}

static void python(struct reader *reader, struct producer *producer) {
    const struct wire *wire = &stream[stream_at - 1];
    const char *at = reader->message + XLOGDATA_HEADER;
    if (reader->message[0] == 'k') {
        uint64_t end = big_endian_u64(reader->message + 1);
        if (!python_open && end > ledger_last) {
            ledger_last = end;
            if (entry_first == entry_count)
                flush_lsn = end;
        }
    } else if (*at == 'B') {
        struct transaction *transaction = transaction_new(producer, big_endian_u64(at + 1), 0);
        transaction->held = true;
        append(transaction);
    } else if (*at == 'C') {
        if ((protocol_error = python_open->lsn != big_endian_u64(at + 2) || big_endian_u64(at + 10) <= ledger_last)) {
            reader_dispose(reader);
            return;
        }
        python_open->end_lsn = ledger_last = big_endian_u64(at + 10);
        python_open = NULL;
    } else if (*at == 'I') {
        char text[20];
        snprintf(text, sizeof text, "%d", wire->row);
        struct plain plain;
        if (!plain_read(&LAYOUT, reader->message, (size_t)reader->length, &plain))
            strcpy(plain.topic, "odd");
        struct record record = {.topic = producer_topic(producer, plain.topic, strlen(plain.topic)), .key = {"k", 1}, .value = {text, strlen(text)},
                                .id_name = "id", .id = {"i", 1}, .type_name = "type", .type = {"t", 1}};
        assert(python_open);
        record.topic->open = !CHANCE(10);
        while (producer_produce(producer, &record, python_open))
            poll_reports(producer->rk, CHANCE(2));
        if (big_endian_u32(at + 1) == OID)
            reader_layout(reader, &LAYOUT);
    }
    reader_dispose(reader);
}

static void run_stream(void) {
    char error[100];
    memset(good, 0, sizeof good);
    memset(row_end, 0, sizeof row_end);
    next_row = queue_length = stream_length = stream_at = stream_ready = entry_first = entry_count = failures_expected = 0;
    ledger_last = flush_lsn = 0;
    python_open = NULL;
    protocol_error = stream_is_bad = false;
    make_stream();
    struct producer *producer = producer_new(50 + rand() % 20, 100000 + (size_t)(rand() % 10) * 1000);
    if (!producer_open(producer, NULL, error, sizeof error) || !producer_open(producer, NULL, error, sizeof error))
        abort();
    struct reader reader;
    reader_init(&reader, producer, NULL);
    reader.isolated = isolated = CHANCE(3) ? 5000 : 0;
    enum portion end;
    int64_t failures = 0;
    do {
        bool interrupted = reader.interrupted = CHANCE(50);
        int before = stream_at;
        if (ledger_last > reader.last)
            reader.last = ledger_last;
        end = reader_take(&reader, 1 + rand() % 100, CHANCE(10), 1750000000000);
        assert(!interrupted || stream_at == before || (end == READER_MESSAGE && stream_at == before + 1));
        for (struct transaction *t; (t = reader_next(&reader));) {
            assert(t->lsn > isolated);
            append(t);
        }
        if (end == READER_MESSAGE)
            python(&reader, producer);
        if (CHANCE(2))
            poll_reports(producer->rk, 0);
        if (CHANCE(2))
            advance();
    } while (end != READER_OVER && !protocol_error && !CHANCE(2000)); /* or the connection is lost */
    if (end == READER_OVER) {
        assert(!stream_is_bad);
        poll_reports(producer->rk, 1);
        advance();
        assert(producer->in_flight == 0 && producer->bytes == 0);
        for (int i = entry_first; i < entry_count; i++)
            failures += entries[i]->outstanding;
        int listed = 0;
        for (struct report *report = producer_reports(producer), *next; report; report = next) {
            listed += report->code != 0;
            next = report->next;
            free(report);
        }
        assert(failures == failures_expected && listed == failures_expected);
    }
    if (CHANCE(2)) { /* the ledger may go before the last reports, which move nothing then */
        for (int i = entry_first; i < entry_count; i++) {
            entries[i]->held = false;
            transaction_release(entries[i]);
        }
        poll_reports(producer->rk, 1);
        assert(producer->in_flight == 0 && !producer->transactions);
    }
    reader_dispose(&reader);
    if (CHANCE(2))
        producer_close(producer);
    producer_free(producer);
    for (int i = 0; i < stream_length; i++)
        free(stream[i].message);
    free(stream);
    stream = NULL;
}

static long parse_garbage(void) {
    char cells[600], *at;
    long plain_rows = 0;
    for (int i = 0; i < 2000; i++) {
        struct plain plain;
        at = put_head(cells);
        *at++ = 'I';
        at = put(at, OID, 4);
        *at++ = 'N';
        at = put(at, 6, 2);
        for (int c = 0; c < 6; c++)
            at = put_cell(at, CHANCE(8) ? NULL : "abcdefghijklmnopqrstuvwxyz" + rand() % 26);
        for (int mutations = rand() % 4; mutations; mutations--)
            cells[rand() % (at - cells)] = CHANCE(2) ? (char)rand() : "tnIN\0\xff"[rand() % 6];
        size_t length = CHANCE(2) ? (size_t)(at - cells) : (size_t)(rand() % (at - cells + 1));
        char *exact = malloc(length); /* so that a byte too far is seen */
        memcpy(exact, cells, length);
        struct layout layout = LAYOUT;
        layout.null_count = rand() % 2;
        if (plain_read(&layout, exact, length, &plain)) {
            free(copy(plain.id.text, plain.id.length));
            free(copy(plain.key.text, plain.key.length));
            free(copy(plain.payload.text, plain.payload.length));
            assert(strlen(plain.topic) == plain.topic_length);
            plain_rows++;
        }
        free(exact);
    }
    return plain_rows;
}

int main(int count, char **arguments) {
    unsigned seed = count > 1 ? (unsigned)atoi(arguments[1]) : 1;
    int streams = count > 2 ? atoi(arguments[2]) : 300;
    long plain_rows = 0, failures = 0, taken = 0;
    libraries = (struct libraries){
        .rd_kafka_conf_set = conf_set, .rd_kafka_conf_set_opaque = conf_opaque, .rd_kafka_conf_set_dr_msg_cb = conf_dr,
        .rd_kafka_conf_set_error_cb = conf_error, .rd_kafka_conf_set_log_cb = conf_log, .rd_kafka_new = new,
        .rd_kafka_destroy = destroy, .rd_kafka_set_log_queue = log_queue, .rd_kafka_purge = purge,
        .rd_kafka_produceva = produceva, .rd_kafka_error_code = error_code, .rd_kafka_error_is_fatal = error_is_fatal, .rd_kafka_error_destroy = error_destroy,
        .rd_kafka_topic_new = topic_new, .rd_kafka_topic_destroy = topic_destroy, .PQgetCopyData = get_copy_data,
        .PQconsumeInput = consume_input, .PQfreemem = free};
    srand(seed);
    for (int i = 0; i < streams; i++) {
        run_stream();
        plain_rows += parse_garbage();
        failures += failures_expected;
        taken += next_row;
    }
    assert(plain_rows > streams && failures > streams && taken > 10L * streams);
    printf("seed %u: %d streams, %ld records, %ld failures, %ld plain rows among garbage\n", seed, streams, taken, failures,
           plain_rows);
    return 0;
}
