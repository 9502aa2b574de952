/* See plain.h. */
#include "plain.h"

#include <string.h>

uint32_t big_endian_u32(const char *at) {
    const unsigned char *byte = (const unsigned char *)at;
    return (uint32_t)byte[0] << 24 | (uint32_t)byte[1] << 16 | (uint32_t)byte[2] << 8 | byte[3];
}

uint64_t big_endian_u64(const char *at) {
    return (uint64_t)big_endian_u32(at) << 32 | big_endian_u32(at + 4);
}

static bool read_cells(const char *at, const char *end, int columns, struct cell *cells) {
    for (int i = 0; i < columns; i++) {
        if (at == end)
            return false;
        if (*at == 'n') {
            cells[i] = (struct cell){NULL, 0};
            at += 1;
        } else if (*at == 't' && end - at >= 5 && big_endian_u32(at + 1) <= (size_t)(end - at - 5)) {
            cells[i] = (struct cell){at + 5, big_endian_u32(at + 1)};
            at += 5 + cells[i].length;
        } else {
            return false;
        }
    }
    return at == end;
}

static bool is_legal(const char *topic, size_t length) {
    for (size_t i = 0; i < length; i++) {
        char c = topic[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-'))
            return false;
    }
    return length > 0 && strcmp(topic, ".") != 0 && strcmp(topic, "..") != 0;
}

static bool make_topic(const struct layout *layout, const struct cell *cells, struct plain *plain) {
    size_t length = 0;
    for (int i = 0; i < layout->piece_count; i++) {
        const struct piece *piece = &layout->pieces[i];
        struct cell cell = {"", 0};
        if (piece->column >= 0)
            cell = cells[piece->column];
        if (!cell.text || cell.length > TOPIC_BYTES || length + piece->length + cell.length > TOPIC_BYTES)
            return false;
        memcpy(plain->topic + length, piece->literal, piece->length);
        memcpy(plain->topic + length + piece->length, cell.text, cell.length);
        length += piece->length + cell.length;
    }
    plain->topic[length] = '\0';
    plain->topic_length = length;
    return is_legal(plain->topic, length);
}

bool plain_read(const struct layout *layout, const char *message, size_t length, struct plain *plain) {
    struct cell cells[PLAIN_COLUMNS];
    const char *insert = message + XLOGDATA_HEADER, *end = message + length;
    if (length < XLOGDATA_HEADER + INSERT_HEADER + 2 || message[0] != 'w' || insert[0] != 'I' || insert[5] != 'N')
        return false;
    const char *tuple = insert + INSERT_HEADER;
    int columns = (unsigned char)tuple[0] << 8 | (unsigned char)tuple[1];
    if (big_endian_u32(insert + 1) != layout->oid || columns != layout->columns)
        return false;
    if (!read_cells(tuple + 2, end, columns, cells))
        return false;
    if (!cells[layout->id].text || !cells[layout->type].text)
        return false;
    for (int i = 0; i < layout->null_count; i++)
        if (cells[layout->null[i]].text)
            return false;
    plain->id = cells[layout->id];
    plain->key = cells[layout->key];
    plain->type = cells[layout->type];
    plain->payload = cells[layout->payload];
    return make_topic(layout, cells, plain);
}
