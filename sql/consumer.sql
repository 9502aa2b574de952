-- The inbox of cdc-outbox: what a consumer has done already, so that a message that comes twice takes effect once.
--
-- Runs on PostgreSQL 14 to 18, through psql, any driver or any migration tool, as often as you like: existing objects
-- stay as they are. Run it in the database that the consumer writes to, which need not be the one that has the
-- outbox, as the role that owns the table, or will. With psql:
--   psql -v ON_ERROR_STOP=1 -f consumer.sql
--
-- The file is one statement: after an error everything is as before, also in psql. While it runs, names without a
-- schema are looked up in pg_catalog alone, whatever search_path the session has: a function, operator or type that
-- another role has created in a schema of that path is never used. What exists already must belong to the role that
-- runs the file.
--
-- The file as it is shipped holds the default name. To have it printed with another:
--   cdc-outbox sql consumer --inbox app.inbox
--
-- To take it away again:
--   DROP FUNCTION public.inbox_claim, public.inbox_prune
--   DROP TABLE public.inbox

DO $pinned$
DECLARE
    callers_path  constant pg_catalog.text := pg_catalog.current_setting('search_path');
BEGIN
PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
EXECUTE $script$

DO $body$
DECLARE
    names  constant text[] := parse_ident('public.inbox');
    found  record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('cdc-outbox', 0));
    IF to_regnamespace('public') IS NULL THEN
        CREATE SCHEMA public;
    END IF;

    -- A table of another role may carry triggers of that role, and these would run with the rights of the owner of the
    -- function. A function or publication of another role can be changed by that role at any time.
    FOR found IN
        SELECT 'table ' || c.oid::regclass AS object, c.relowner AS owner
        FROM pg_class AS c WHERE c.oid = to_regclass('public.inbox') AND pg_get_userbyid(c.relowner) <> current_user
        UNION ALL
        SELECT 'type ' || t.oid::regtype, t.typowner
        FROM pg_type AS t WHERE t.oid = to_regtype('public.inbox') AND pg_get_userbyid(t.typowner) <> current_user
        UNION ALL
        SELECT 'function ' || p.oid::regprocedure, p.proowner
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = names[1] AND p.proname IN (names[2] || '_claim', names[2] || '_prune')
            AND pg_get_userbyid(p.proowner) <> current_user
    LOOP
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = found.object || ' belongs to role ' || pg_get_userbyid(found.owner) || ', not to '
                || current_user,
            HINT = 'if that is right, run this as that role: SET ROLE ' || quote_ident(pg_get_userbyid(found.owner))
                || '. Else drop or rename it, or install under another name';
    END LOOP;
END
$body$;

-- One row is one message that one consumer has dealt with.
--
--   consumer    name of the consumer: each effect of a message has a name of its own, as with consumer groups.
--   message_id  the header id of the record.
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
        COMMENT ON TABLE public.inbox IS 'Messages that were consumed, by consumer: each takes effect once.';
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
-- effect again: keep claims for longer than the topic keeps records, or than a consumer would be set back.
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

-- Once more at the end: another role may have created one of them meanwhile.
DO $body$
DECLARE
    names  constant text[] := parse_ident('public.inbox');
BEGIN
    IF EXISTS (
        SELECT FROM pg_class AS c JOIN pg_proc AS p ON p.pronamespace = c.relnamespace
        WHERE c.oid = 'public.inbox'::regclass AND p.proname IN (names[2] || '_claim', names[2] || '_prune')
            AND (pg_get_userbyid(c.relowner) <> current_user OR pg_get_userbyid(p.proowner) <> current_user))
    THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'another role created table or functions of the inbox at the same moment',
            HINT = 'run this again';
    END IF;
END
$body$;

$script$;
PERFORM pg_catalog.set_config('search_path', callers_path, true);
END
$pinned$;
