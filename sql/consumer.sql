-- The inbox of cdc-outbox: what a consumer has done already, so that a message that comes twice takes effect once.
--
-- Runs on PostgreSQL 14 to 18, through psql, any driver or any migration tool, as often as you like: what is there
-- already stays as it is. Run it in the database that the consumer writes to, which need not be the one that has the
-- outbox, as the role that owns the table, or will. With psql:
--   psql -v ON_ERROR_STOP=1 -f consumer.sql
--
-- The file as it is shipped holds the default name. To have it printed with another:
--   cdc-outbox sql consumer --inbox app.inbox
--
-- To take it away again:
--   DROP FUNCTION public.inbox_claim, public.inbox_prune
--   DROP TABLE public.inbox

DO $body$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('cdc-outbox', 0));
    IF to_regnamespace('public') IS NULL THEN
        CREATE SCHEMA public;
    END IF;
END
$body$;

-- One row is one message that one consumer has dealt with.
--
--   consumer    who: each that does something of its own with a message has a name of its own, as with consumer groups.
--   message_id  which: the header id of the record.
--   claimed_at  when, for pruning. It has no index: one would cost every claim, and pruning reads a table that it keeps
--               small.
CREATE TABLE IF NOT EXISTS public.inbox (
    consumer    text NOT NULL,
    message_id  text NOT NULL,
    claimed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, message_id)
);

-- A table that was there before must be such a one.
DO $body$
DECLARE
    inbox_table  constant regclass := 'public.inbox';
    key_columns  name[];
BEGIN
    SELECT array_agg(a.attname ORDER BY a.attname) INTO key_columns
    FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = inbox_table AND i.indisprimary;
    IF key_columns IS DISTINCT FROM ARRAY['consumer', 'message_id']::name[]
        OR NOT EXISTS (
            SELECT FROM pg_attribute
            WHERE attrelid = inbox_table AND attname = 'claimed_at' AND atttypid = 'timestamptz'::regtype
                AND NOT attisdropped)
    THEN
        RAISE EXCEPTION USING
            MESSAGE = 'table ' || inbox_table || ' is there already, and is no inbox',
            HINT = 'it would have the primary key (consumer, message_id) and a column claimed_at: use another name';
    END IF;

    IF obj_description(inbox_table, 'pg_class') IS NULL THEN
        COMMENT ON TABLE public.inbox IS 'Messages that were consumed, and by whom: each takes effect once.';
    END IF;
END
$body$;

-- True for the first claim of a message by a consumer, false for every other. Call it in the transaction that has the
-- effect, before it:
--   SELECT public.inbox_claim('mailer', '01a207b6-8329-7897-99bd-428955e6b3ed')
-- Claim and effect commit together, or neither. While the transaction of another claim is open, this one waits for it:
-- false if it commits, true if it rolls back. (In REPEATABLE READ and SERIALIZABLE, in place of false, the server may
-- ask for the whole transaction to be tried again: SQLSTATE 40001.)
--
-- The functions run with the rights of their owner, with a pinned search path. A role other than the owner needs:
--   GRANT USAGE ON SCHEMA public TO my_consumer
--   GRANT EXECUTE ON FUNCTION public.inbox_claim TO my_consumer
CREATE OR REPLACE FUNCTION public.inbox_claim(consumer text, message_id text) RETURNS boolean
LANGUAGE sql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH claimed AS (
        INSERT INTO public.inbox (consumer, message_id) VALUES (consumer, message_id)
        ON CONFLICT (consumer, message_id) DO NOTHING
        RETURNING 1
    )
    SELECT EXISTS (SELECT FROM claimed)
$body$;

-- Deletes claims that are older, and returns how many. A message that comes again after its claim was deleted takes
-- effect again: keep claims for longer than the topic keeps records, or than anybody would go back in it.
--   SELECT public.inbox_prune('30 days')
CREATE OR REPLACE FUNCTION public.inbox_prune(older_than interval) RETURNS bigint
LANGUAGE sql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
    WITH pruned AS (
        DELETE FROM public.inbox WHERE claimed_at < clock_timestamp() - older_than RETURNING 1
    )
    SELECT count(*) FROM pruned
$body$;

COMMENT ON FUNCTION public.inbox_claim IS 'True for the first claim of a message by a consumer, false for every other.';
COMMENT ON FUNCTION public.inbox_prune IS 'Deletes claims that are older, and returns how many.';

REVOKE ALL ON FUNCTION public.inbox_claim FROM PUBLIC;
REVOKE ALL ON FUNCTION public.inbox_prune FROM PUBLIC;
