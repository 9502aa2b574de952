/* A row of a replication stream to the parts of a Kafka record: plain rows only. Pure: bytes in, pointers into them out.
 *
 * The counterpart of cdc_outbox/records/mapping.py: what `plain_read` takes becomes the record that Python would make, byte for byte;
 * Python reads what it does not take. PostgreSQL manual: 54.9 Logical Replication Message Formats.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PLAIN_COLUMNS 128     /* of a table: an outbox has about ten; a wider one is left to Python */
#define PLAIN_PLACEHOLDERS 8  /* of a topic template */
#define TOPIC_BYTES 249       /* Kafka's limit (org.apache.kafka.common.internals.Topic) */
#define NAME_BYTES 64         /* of the two headers' names, with their NUL */
#define XLOGDATA_HEADER 25    /* bytes before the pgoutput message: 'w', start LSN, end LSN, clock */
#define INSERT_HEADER 6       /* 'I', relation OID, 'N' */

struct cell {
    const char *text; /* NULL: the cell is NULL */
    size_t length;
};

struct piece { /* of a topic template: literal text, then a column */
    char literal[TOPIC_BYTES + 1];
    size_t length;
    int column; /* -1: none behind the last literal */
};

struct layout { /* how rows of one relation become records */
    uint32_t oid;
    int columns;
    int id, key, type, payload;        /* positions */
    int null_count;
    uint8_t null[PLAIN_COLUMNS];       /* positions of columns that Python must read unless they are NULL */
    char id_name[NAME_BYTES], type_name[NAME_BYTES];
    int piece_count;
    struct piece pieces[PLAIN_PLACEHOLDERS + 1];
};

struct plain {
    struct cell id, key, type, payload;
    char topic[TOPIC_BYTES + 1];       /* NUL-terminated */
    size_t topic_length;
};

bool plain_read(const struct layout *layout, const char *message, size_t length, struct plain *plain);
/* Read an XLogData message with an Insert of the layout's relation. False: not plain, or not well-formed: Python decides. */

uint64_t big_endian_u64(const char *at);
uint32_t big_endian_u32(const char *at);
