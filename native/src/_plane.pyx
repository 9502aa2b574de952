# cython: language_level=3, binding=False, freethreading_compatible=False
"""The objects that Python sees of the native plane: see producer.h and reader.h for what they do, and _plane.pyi for their types."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

import logging


cdef extern from "libraries.h" nogil:
    ctypedef struct rd_kafka_conf_t
    ctypedef struct rd_kafka_headers_t
    ctypedef struct rd_kafka_error_t
    ctypedef struct PGconn
    ctypedef struct rd_kafka_topic_t
    struct rd_kafka_metadata_topic:
        int partition_cnt
        int err
    ctypedef struct rd_kafka_metadata_t:
        int topic_cnt
        rd_kafka_metadata_topic *topics
    enum:
        RD_KAFKA_PURGE_F_QUEUE
        RD_KAFKA_PURGE_F_INFLIGHT
        RD_KAFKA_RESP_ERR__INVALID_ARG
        RD_KAFKA_RESP_ERR__QUEUE_FULL
        RD_KAFKA_RESP_ERR__DESTROY
    struct _libraries "libraries":
        int (*rd_kafka_version)() noexcept nogil
        int (*PQlibVersion)() noexcept nogil
        rd_kafka_conf_t *(*rd_kafka_conf_new)() noexcept nogil
        void (*rd_kafka_conf_destroy)(rd_kafka_conf_t *) noexcept nogil
        int (*rd_kafka_conf_set)(rd_kafka_conf_t *, const char *, const char *, char *, size_t) noexcept nogil
        int (*rd_kafka_purge)(void *, int) noexcept nogil
        rd_kafka_headers_t *(*rd_kafka_headers_new)(size_t) noexcept nogil
        void (*rd_kafka_headers_destroy)(rd_kafka_headers_t *) noexcept nogil
        int (*rd_kafka_header_add)(rd_kafka_headers_t *, const char *, Py_ssize_t, const void *, Py_ssize_t) noexcept nogil
        int (*rd_kafka_metadata)(void *, int, rd_kafka_topic_t *, const rd_kafka_metadata_t **, int) noexcept nogil
        void (*rd_kafka_metadata_destroy)(const rd_kafka_metadata_t *) noexcept nogil
        rd_kafka_error_t *(*rd_kafka_sasl_set_credentials)(void *, const char *, const char *) noexcept nogil
        int (*rd_kafka_error_code)(const rd_kafka_error_t *) noexcept nogil
        const char *(*rd_kafka_error_string)(const rd_kafka_error_t *) noexcept nogil
        void (*rd_kafka_error_destroy)(rd_kafka_error_t *) noexcept nogil
        const char *(*rd_kafka_err2str)(int) noexcept nogil
    _libraries libraries
    const char *libraries_load(const char *, const char *)


cdef extern from "plain.h" nogil:
    enum:
        PLAIN_COLUMNS
        PLAIN_PLACEHOLDERS
        NAME_BYTES
        TOPIC_BYTES
    struct cell:
        const char *text
        size_t length
    struct piece:
        char literal[250]
        size_t length
        int column
    struct layout_t "layout":
        uint32_t oid
        int columns, id, key, type, payload, null_count, piece_count
        uint8_t null[128]
        char id_name[64]
        char type_name[64]
        piece pieces[9]
    struct plain_t "plain":
        cell id, key, type, payload
        char topic[250]
        size_t topic_length
    bint plain_read(const layout_t *, const char *, size_t, plain_t *)


cdef extern from "producer.h" nogil:
    struct transaction_t "transaction":
        uint64_t lsn, last_lsn, end_lsn
        int64_t commit_time, transactions, events, outstanding
        int64_t sequence
        bint isolated, held
    struct topic_t "topic":
        topic_t *next_changed
        rd_kafka_topic_t *handle
        bint open
        int64_t delivered, delivered_bytes
        bint changed
        char name[1]
    struct report_t "report":
        report_t *next
        uint64_t lsn, last_lsn
        int code
        int32_t partition
        size_t size, topic_length, key_length
        bint key_is_null
        char text[1]
    struct notice_t "notice":
        notice_t *next
        int code, level
        bint fatal
        char text[1]
    struct record_t "record":
        topic_t *topic
        cell key, value
        int64_t timestamp
        int32_t partition
        rd_kafka_headers_t *headers
        size_t header_bytes
    struct producer_t "producer":
        void *rk
        size_t in_flight, bytes
        int64_t delivered_bytes
        topic_t *changed
    producer_t *producer_new(size_t, size_t)
    bint producer_open(producer_t *, rd_kafka_conf_t *, char *, size_t)
    enum:
        HEADER_OVERHEAD
    void producer_close(producer_t *)
    void producer_free(producer_t *)
    transaction_t *transaction_new(producer_t *, uint64_t, int64_t)
    void transaction_release(transaction_t *)
    topic_t *producer_topic(producer_t *, const char *, size_t)
    topic_t *producer_find(const producer_t *, const char *, size_t)
    int producer_produce(producer_t *, const record_t *, transaction_t *)
    void producer_poll(producer_t *, int)
    void producer_flush(producer_t *, int)
    report_t *producer_reports(producer_t *)
    notice_t *producer_notices(producer_t *)
    void free "free"(void *)


cdef extern from "reader.h" nogil:
    enum portion:
        READER_EMPTY
        READER_FULL
        READER_MESSAGE
        READER_OVER
        READER_BROKEN
    struct reader_t "reader":
        int64_t received[64]
        uint64_t isolated, last
        bint interrupted, open
        transaction_t *group
        char *message
        int length
        int64_t bytes
        int count
    void reader_init(reader_t *, producer_t *, PGconn *)
    portion reader_take(reader_t *, int, bint, int64_t)
    transaction_t *reader_next(reader_t *)
    void reader_dispose(reader_t *)
    int reader_layout(reader_t *, const layout_t *)


class Unavailable(Exception):
    """The loaded librdkafka or libpq cannot be used; the text is the reason."""


class KafkaFailure(Exception):
    """librdkafka refused something. args: its error code, its text."""


def load(str kafka_module, str postgres_module):
    """Find the libraries through two loaded extension modules, by their paths. Returns both versions. Raises Unavailable."""
    cdef const char *reason = libraries_load(kafka_module.encode(), postgres_module.encode())
    if reason != NULL:
        raise Unavailable(reason.decode(errors="replace"))
    return libraries.rd_kafka_version(), libraries.PQlibVersion()


@cython.no_gc
@cython.final
cdef class Transaction:
    """One transaction in flight, or a group of small ones. Delivery reports count `outstanding` down."""

    cdef transaction_t *c
    cdef Producer producer  # owns the memory

    def __dealloc__(self):
        if self.c != NULL:
            self.c.held = False
            transaction_release(self.c)

    @property
    def lsn(self):
        return self.c.lsn

    @property
    def last_lsn(self):
        return self.c.last_lsn

    @property
    def commit_time(self):
        return self.c.commit_time

    @property
    def transactions(self):
        return self.c.transactions

    @property
    def sequence(self):
        return self.c.sequence

    @sequence.setter
    def sequence(self, int64_t number):
        self.c.sequence = number

    @property
    def isolated(self):
        return self.c.isolated

    @isolated.setter
    def isolated(self, bint isolated):
        self.c.isolated = isolated

    @property
    def end_lsn(self):
        return self.c.end_lsn

    @end_lsn.setter
    def end_lsn(self, uint64_t lsn):
        self.c.end_lsn = lsn

    @property
    def events(self):
        return self.c.events

    @events.setter
    def events(self, int64_t count):
        self.c.events = count

    @property
    def outstanding(self):
        return self.c.outstanding

    @outstanding.setter
    def outstanding(self, int64_t count):
        self.c.outstanding = count


cdef Transaction wrap(Producer producer, transaction_t *c):
    cdef Transaction transaction = Transaction.__new__(Transaction)
    c.held = True
    transaction.c, transaction.producer = c, producer
    return transaction


cdef cell cell_of(bytes text):
    cdef cell found
    found.text, found.length = NULL, 0
    if text is not None:
        found.text, found.length = PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)
    return found


@cython.no_gc
@cython.final
cdef class Producer:
    """A librdkafka producer. `properties` are librdkafka's; the bounds are on records and bytes in flight."""

    cdef producer_t *c

    def __cinit__(self, dict properties, size_t records, size_t size):
        if libraries.rd_kafka_conf_new == NULL:
            raise Unavailable("load() comes first")
        self.c = producer_new(records, size)
        if self.c == NULL:
            raise MemoryError(f"for {records} records in flight")
        self.open(properties)

    def open(self, dict properties):
        """Change the properties while nothing is in flight. Raises KafkaFailure, and then keeps the old ones."""
        cdef char error[512]
        cdef rd_kafka_conf_t *conf = libraries.rd_kafka_conf_new()
        cdef bytes name, value
        cdef bint done
        error[0] = 0
        for key, text in properties.items():
            name, value = key.encode(), text.encode()
            if libraries.rd_kafka_conf_set(conf, name, value, error, sizeof(error)) != 0:
                libraries.rd_kafka_conf_destroy(conf)
                raise KafkaFailure(RD_KAFKA_RESP_ERR__INVALID_ARG, error.decode(errors="replace"))
        if self.c.in_flight:
            libraries.rd_kafka_conf_destroy(conf)
            raise ValueError(f"{self.c.in_flight} records are in flight")
        with nogil:
            done = producer_open(self.c, conf, error, sizeof(error))
        if not done:
            raise KafkaFailure(RD_KAFKA_RESP_ERR__INVALID_ARG, error.decode(errors="replace"))

    def __dealloc__(self):
        if self.c != NULL:
            with nogil:
                producer_free(self.c)

    def __len__(self):
        return self.c.in_flight

    @property
    def size(self):
        """Bytes in flight."""
        return self.c.bytes

    @property
    def delivered_bytes(self):
        """Bytes of the delivered records."""
        return self.c.delivered_bytes

    def close_topic(self, str topic):
        """Hand rows of the topic over, until `produce` has had a record of it."""
        cdef bytes name = topic.encode()
        cdef topic_t *found = producer_find(self.c, name, len(name))
        if found != NULL:
            found.open = False

    def transaction(self, int64_t commit_time, uint64_t lsn=0):
        """A transaction for records that Python makes. `commit_time` in Unix milliseconds."""
        cdef transaction_t *c = transaction_new(self.c, lsn, commit_time)
        c.transactions = 1
        return wrap(self, c)

    def produce(self, str topic, bytes key, bytes value, list headers, int64_t timestamp, int32_t partition,
                Transaction transaction not None, bint opens=True):
        """Return 0, or librdkafka's error code: -184 when the queue is full. `opens`: whether the reader may take rows of the
        topic; until then, `reports` lists each delivery.
        """
        cdef record_t record
        cdef bytes name = topic.encode(), content
        cdef list named = [((<str?>header).encode(), text.encode() if type(text) is str else text) for header, text in headers]
        cdef int code
        cdef cell part
        if transaction.producer is not self:
            raise ValueError("a transaction of another producer")
        record.topic = producer_topic(self.c, name, len(name))
        if self.c.rk == NULL:
            return RD_KAFKA_RESP_ERR__DESTROY
        if record.topic == NULL:
            return RD_KAFKA_RESP_ERR__QUEUE_FULL  # a thousand topics have records in flight
        record.topic.open = opens
        record.key, record.value = cell_of(key), cell_of(value)
        record.timestamp, record.partition = timestamp, partition
        record.headers, record.header_bytes = libraries.rd_kafka_headers_new(len(named)), 0
        for name, content in named:
            part = cell_of(content)
            libraries.rd_kafka_header_add(record.headers, name, len(name), part.text, part.length)
            record.header_bytes += HEADER_OVERHEAD + len(name) + part.length
        code = producer_produce(self.c, &record, transaction.c)
        if code != 0:
            libraries.rd_kafka_headers_destroy(record.headers)
        return code

    def poll(self, double seconds):
        cdef int milliseconds = <int>(seconds * 1000)
        with nogil:
            producer_poll(self.c, milliseconds)

    def flush(self, double seconds):
        cdef int milliseconds = <int>(seconds * 1000)
        with nogil:
            producer_flush(self.c, milliseconds)

    def close(self):
        """End librdkafka's threads and discard the records in flight. Nothing can be produced after that."""
        with nogil:
            producer_close(self.c)

    def purge(self, bint in_flight=True):
        cdef int flags = RD_KAFKA_PURGE_F_QUEUE | (RD_KAFKA_PURGE_F_INFLIGHT if in_flight else 0)
        if self.c.rk == NULL:
            return
        with nogil:
            libraries.rd_kafka_purge(self.c.rk, flags)

    def reports(self):
        """Take the deliveries that failed, and those to topics that are not open, whose code is 0:
        (topic, key, size, code, text, first commit LSN, last commit LSN, partition).
        """
        cdef list found = []
        cdef report_t *report = producer_reports(self.c)
        cdef report_t *following
        while report != NULL:
            key = None
            if not report.key_is_null:
                key = PyBytes_FromStringAndSize(report.text + report.topic_length, report.key_length)
            text = libraries.rd_kafka_err2str(report.code).decode(errors="replace")
            topic = report.text[:report.topic_length].decode()
            found.append((topic, key, report.size, report.code, text, report.lsn, report.last_lsn, report.partition))
            following = report.next
            free(report)
            report = following
        return found

    def notices(self):
        """Take what librdkafka noticed: (code, text, fatal, level); the level is that of a log line, or -1 for an error."""
        cdef list found = []
        cdef notice_t *notice = producer_notices(self.c)
        cdef notice_t *following
        while notice != NULL:
            text = (<bytes>(<char *>notice.text)).decode(errors="replace")
            found.append((notice.code, text, bool(notice.fatal), notice.level))
            following = notice.next
            free(notice)
            notice = following
        return found

    def delivered(self):
        """Take the counts of topics that changed: (topic, records, bytes)."""
        cdef list found = []
        cdef topic_t *topic = self.c.changed
        while topic != NULL:
            found.append(((<bytes>(<char *>topic.name)).decode(), topic.delivered, topic.delivered_bytes))
            topic.delivered, topic.delivered_bytes, topic.changed = 0, 0, False
            topic = topic.next_changed
        self.c.changed = NULL
        return found

    def metadata(self, str topic, double timeout):
        """Ask the brokers for a topic, or for all with None. Give its error code and how many partitions it has.

        Raises KafkaFailure when none answers.
        """
        cdef const rd_kafka_metadata_t *metadata
        cdef rd_kafka_topic_t *handle = NULL
        cdef int milliseconds = <int>(timeout * 1000), code, error = 0, partitions = 0
        cdef bytes name
        cdef topic_t *known
        if self.c.rk == NULL:
            raise KafkaFailure(RD_KAFKA_RESP_ERR__DESTROY, "the producer is closed")
        if topic is not None:
            name = topic.encode()
            known = producer_topic(self.c, name, len(name))
            if known == NULL:
                raise KafkaFailure(RD_KAFKA_RESP_ERR__INVALID_ARG, f"topic {topic} cannot be opened")
            handle = known.handle
        with nogil:
            code = libraries.rd_kafka_metadata(self.c.rk, handle == NULL, handle, &metadata, milliseconds)
            if code == 0:
                if handle != NULL and metadata.topic_cnt == 1:
                    error, partitions = metadata.topics[0].err, metadata.topics[0].partition_cnt
                libraries.rd_kafka_metadata_destroy(metadata)
        if code != 0:
            raise KafkaFailure(code, libraries.rd_kafka_err2str(code).decode(errors="replace"))
        return error, partitions

    def set_sasl_credentials(self, str username, str password):
        cdef rd_kafka_error_t *error
        if self.c.rk == NULL:
            raise KafkaFailure(RD_KAFKA_RESP_ERR__DESTROY, "the producer is closed")
        error = libraries.rd_kafka_sasl_set_credentials(self.c.rk, username.encode(), password.encode())
        if error != NULL:
            code, text = libraries.rd_kafka_error_code(error), libraries.rd_kafka_error_string(error).decode(errors="replace")
            libraries.rd_kafka_error_destroy(error)
            raise KafkaFailure(code, text)


cdef layout_t layout_of(plan) except *:
    cdef layout_t layout
    cdef bytes literal, id_name = plan.id_name.encode() + b"\0", type_name = plan.type_name.encode() + b"\0"
    cdef int i
    cdef tuple null = plan.null, literals = plan.literals, routing = plan.routing
    if plan.columns > PLAIN_COLUMNS or len(routing) > PLAIN_PLACEHOLDERS or len(literals) != len(routing) + 1:
        raise ValueError("too many columns")
    if max(len(id_name), len(type_name)) > NAME_BYTES or b"\0" in id_name[:-1] + type_name[:-1]:
        raise ValueError("a header's name is too long")
    memcpy(layout.id_name, PyBytes_AS_STRING(id_name), len(id_name))
    memcpy(layout.type_name, PyBytes_AS_STRING(type_name), len(type_name))
    for i in (plan.id, plan.key, plan.type, plan.payload, *null, *routing):
        if not 0 <= i < plan.columns:
            raise ValueError(f"there is no column {i} among {plan.columns}")
    layout.oid, layout.columns = plan.oid, plan.columns
    layout.id, layout.key, layout.type, layout.payload = plan.id, plan.key, plan.type, plan.payload
    layout.null_count, layout.piece_count = len(null), len(literals)
    for i in range(len(null)):
        layout.null[i] = null[i]
    for i in range(len(literals)):
        literal = literals[i].encode()
        if len(literal) > TOPIC_BYTES:
            raise ValueError("a literal is longer than a topic")
        layout.pieces[i].length = len(literal)
        memcpy(layout.pieces[i].literal, PyBytes_AS_STRING(literal), len(literal))
        layout.pieces[i].column = routing[i] if i < len(routing) else -1
    return layout


def peek(bytes message not None, layout):
    """Give (topic, key, value, id, type) of a plain row; None when it is not plain. For tests: nothing is produced."""
    cdef layout_t c = layout_of(layout)
    cdef plain_t plain
    if not plain_read(&c, message, len(message), &plain):
        return None
    key = None if plain.key.text == NULL else PyBytes_FromStringAndSize(plain.key.text, plain.key.length)
    value = None if plain.payload.text == NULL else PyBytes_FromStringAndSize(plain.payload.text, plain.payload.length)
    return (
        plain.topic[:plain.topic_length].decode(),
        key,
        value,
        PyBytes_FromStringAndSize(plain.id.text, plain.id.length),
        PyBytes_FromStringAndSize(plain.type.text, plain.type.length),
    )


@cython.final
cdef class Reader:
    """Takes what a connection brings, as far as it is plain. `pgconn`: psycopg's PGconn.pgconn_ptr, which must outlive this."""

    cdef reader_t c
    cdef Producer producer
    cdef Transaction opened
    cdef list mappings
    cdef readonly bint over, broken, empty
    cdef readonly int count

    def __init__(self, Producer producer not None, size_t pgconn, uint64_t isolated):
        self.producer, self.mappings = producer, []
        reader_init(&self.c, producer.c, <PGconn *>pgconn)
        self.c.isolated = isolated

    def __dealloc__(self):
        reader_dispose(&self.c)

    def interrupt(self):
        """Hand the next message over, even a plain row."""
        self.c.interrupted = True

    def learn(self, mapping):
        """Take the plain rows of `mapping`, which are as `mapping.plain` describes; each adds 1 to `mapping.received`. Rows of
        a relation without such a layout, or too large for the plane, are handed over.
        """
        cdef layout_t c
        cdef int place
        if mapping.plain is None:
            return
        try:
            c = layout_of(mapping.plain)
        except ValueError:
            return
        place = reader_layout(&self.c, &c)
        if place >= 0:
            self.mappings[place : place + 1] = [mapping]

    def take(self, int limit, bint one_transaction, uint64_t last_end, double now):
        """Take at most `limit` messages. Give the transactions for the ledger, oldest first, the last of them perhaps open, and
        behind them the message that is not plain, if one came. `last_end`: where the ledger ends. `now`: Unix seconds.
        """
        cdef portion end
        cdef transaction_t *c
        cdef int64_t milliseconds = <int64_t>(now * 1000)
        cdef list found = []
        self.c.last = max(self.c.last, last_end)
        with nogil:
            end = reader_take(&self.c, limit, one_transaction, milliseconds)
        while (c := reader_next(&self.c)) != NULL:
            self.opened = wrap(self.producer, c)
            found.append(self.opened)
        if end == READER_MESSAGE:
            found.append(PyBytes_FromStringAndSize(self.c.message, self.c.length))
            reader_dispose(&self.c)
        self.over, self.broken, self.empty = end == READER_OVER, end == READER_BROKEN, end == READER_EMPTY
        self.count = self.c.count
        for place, mapping in enumerate(self.mappings):
            if self.c.received[place]:
                mapping.received += self.c.received[place]
                self.c.received[place] = 0
        return found
