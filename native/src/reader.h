/* Reads a replication connection: takes plain rows, and hands all other messages over, in order.
 *
 * In: a libpq connection in COPY BOTH, layouts of relations. Out: records to the producer, transactions for the ledger, and
 * each message that is not plain, one at a time.
 * Never: a message taken behind one that is handed over; a transaction closed whose Commit does not fit its Begin; a position
 * that goes back; a row outside a transaction that this reader began.
 */
#pragma once

#include "producer.h"

#define LAYOUTS 64
/* Relations with a layout: partitions of an outbox, old and new. Rows of others are handed over. */

#define GROUP_EVENTS 250
/* A group of small transactions is closed when it has this many events: its ledger entry costs 1/250 of a row then, and a refused
 * record has at most about this many others sent one by one. */

#define GROUP_AGE_FRACTION 100
/* Transactions of a group were committed within 1 ms and 1 % of their age: the group's latency is that of its oldest. */

#define PORTION_BYTES (1024 * 1024)
/* One portion ends after this much, so that delivery reports and status are not kept waiting: some milliseconds. */

enum portion {
    READER_EMPTY,   /* nothing has arrived that was not taken */
    READER_FULL,    /* as many messages as were wanted; there may be more */
    READER_MESSAGE, /* `message` is for Python, before anything else is taken */
    READER_OVER,    /* the server ended the copy */
    READER_BROKEN   /* libpq: see PQerrorMessage */
};

struct reader {
    struct producer *producer;
    PGconn *connection;
    struct layout layouts[LAYOUTS];
    bool stale[LAYOUTS];              /* the relation was described again: Python has to look first */
    int64_t received[LAYOUTS];        /* rows taken, by layout */
    int layout_count;
    uint64_t isolated;                /* transactions that commit up to here go the way of Python, whole */
    bool interrupted;                 /* hand the next message over, whatever it is: a notice came before it */
    bool open;                        /* inside a transaction that this reader began … */
    bool announced;                   /* … and handed over, open, since something in it was not plain */
    bool had_rows;                    /* rows of the open one are in the group */
    uint64_t lsn;                     /* the open one's commit LSN */
    int64_t commit_time;              /* and time, Unix milliseconds */
    uint64_t last;                    /* the highest end so far, of a Commit or keepalive */
    struct transaction *group;        /* takes the rows; not in the ledger unless `announced` */
    struct transaction *first, **end; /* closed ones (and one that is open, at the end), for the ledger */
    char *message;                    /* READER_MESSAGE: libpq's memory; `reader_dispose` gives it back */
    int length;
    int64_t bytes;                    /* of the last portion */
    int count;                        /* its messages */
};

void reader_init(struct reader *reader, struct producer *producer, PGconn *connection);
enum portion reader_take(struct reader *reader, int limit, bool one_transaction, int64_t now);
/* At most `limit` messages; with `one_transaction`, no further than the next Commit. `now`: Unix milliseconds. */
struct transaction *reader_next(struct reader *reader);
/* Take what `reader_take` left for the ledger, oldest first; NULL: no more. */
void reader_dispose(struct reader *reader);
int reader_layout(struct reader *reader, const struct layout *layout);
/* Rows of this relation may be plain from now on, until it is described again. Its place among the layouts; -1: too many. */
