-- The transactional outbox of cdc-outbox without a table: emit function and publication. Events are logical messages in
-- the write-ahead log, and nowhere else.
--
-- Runs on PostgreSQL 14 to 18, through psql, any driver or any migration tool, as often as you like. Run it as the role
-- that owns the function, or will, in a database that has the outbox. That role needs CREATE on the database, for the
-- publication. With psql:
--   psql -v ON_ERROR_STOP=1 -f message.sql
-- Then roles.sql, and the relay:
--   cdc-outbox run --source message
--
-- There is no table: no row to read again, nothing to prune, nothing for a first start to send. An event that was
-- written before the replication slot was made, or whose slot is lost, is gone.
--
-- The file is one statement: after an error everything is as before, also in psql. While it runs, names without a
-- schema are looked up in pg_catalog alone, whatever search_path the session has: a function, operator or type that
-- another role has created in a schema of that path is never used. What exists already must belong to the role that
-- runs the file.
--
-- The file as it is shipped holds the default names, payload type and prefix. To have it printed with others:
--   cdc-outbox sql install --source message --table events.orders --message-prefix orders --payload-type jsonb
-- The name of a table is that of the function, without _emit: here public.outbox, a table that need not exist. Where it
-- does exist, the function that wrote into it is replaced: callers see no difference.

DO $pinned$
DECLARE
    callers_path  constant pg_catalog.text := pg_catalog.current_setting('search_path');
BEGIN
PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
EXECUTE $script$

DO $body$
DECLARE
    publication_name  constant name := 'cdc_outbox';
    names             constant text[] := parse_ident('public.outbox_emit');
    found             record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('cdc-outbox', 0));
    IF to_regnamespace('public') IS NULL THEN
        CREATE SCHEMA public;
    END IF;

    -- A table of another role may carry triggers of that role, and these would run with the rights of the owner of the
    -- function. A function or publication of another role can be changed by that role at any time.
    FOR found IN
        SELECT 'function ' || p.oid::regprocedure AS object, p.proowner AS owner
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = names[1] AND p.proname IN (names[2])
            AND pg_get_userbyid(p.proowner) <> current_user
        UNION ALL
        SELECT 'publication ' || quote_ident(p.pubname), p.pubowner
        FROM pg_publication AS p
        WHERE p.pubname = publication_name AND pg_get_userbyid(p.pubowner) <> current_user
            AND NOT EXISTS (SELECT FROM pg_roles AS r WHERE r.oid = p.pubowner AND r.rolsuper)
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

-- Writes one event and returns its id. One call from any language, in the transaction that makes the business change:
--   SELECT public.outbox_emit('order', '42', 'OrderPlaced', '{"total": 99}')
-- A rollback takes it back, and so does one to a savepoint before it.
--
-- The message: a JSON object with the names that columns of an outbox table have, a newline, the payload byte for byte.
-- All of it is UTF-8, whatever the encoding of the database, since the server sends messages as they are. A payload of
-- NULL is a member of the object, as null: a tombstone.
--
-- It runs with the rights of its owner: a role with EXECUTE can add events. By default every role may also execute
-- pg_logical_emit_message, and so write such messages past this function. Where that matters, a superuser takes
-- both of its forms (text and bytea) from PUBLIC, and grants them to the owner of this function.
CREATE OR REPLACE FUNCTION public.outbox_emit(
    aggregatetype text,
    aggregateid text,
    type text,
    payload json,
    headers jsonb DEFAULT NULL,
    id uuid DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    message_prefix  constant text := 'outbox';
    newline         constant bytea := convert_to(chr(10), 'UTF8');
    event_id        uuid := id;
    event           jsonb;
    value           bytea;
BEGIN
    -- What the checks of the table would refuse.
    IF aggregatetype IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'not_null_violation',
            COLUMN = 'aggregatetype',
            MESSAGE = 'aggregatetype is NULL: it names the topic of the event',
            HINT = 'the first argument is the kind of thing that changed, such as order';
    ELSIF aggregatetype = '' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation',
            COLUMN = 'aggregatetype',
            MESSAGE = 'aggregatetype is empty: it names the topic of the event',
            HINT = 'the first argument is the kind of thing that changed, such as order';
    ELSIF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation',
            COLUMN = 'headers',
            MESSAGE = 'headers is a JSON ' || jsonb_typeof(headers) || ', and not an object',
            HINT = 'the fifth argument has a member for each header: {"tenant": "acme"}';
    END IF;

    IF event_id IS NULL AND to_regprocedure('pg_catalog.uuidv7()') IS NOT NULL THEN
        event_id := uuidv7();
    ELSIF event_id IS NULL THEN
        event_id := gen_random_uuid();
    END IF;

    event := jsonb_build_object(
        'id', event_id, 'aggregatetype', aggregatetype, 'aggregateid', aggregateid, 'type', type);
    IF headers IS NOT NULL THEN
        event := event || jsonb_build_object('headers', headers);
    END IF;

    IF payload IS NULL THEN
        event := event || '{"payload": null}';
        value := '';
    ELSIF pg_typeof(payload) = 'bytea'::regtype THEN
        value := newline || payload::bytea;
    ELSE
        value := newline || convert_to(payload::text, 'UTF8');
    END IF;

    PERFORM pg_logical_emit_message(true, message_prefix, convert_to(event::text, 'UTF8') || value);
    RETURN event_id;
END
$body$;

-- The parameters are part of what a function is. One that is left from before, for another payload type or without
-- the id, has to go: with both of them, calls would be ambiguous. Roles that could execute it can execute the new one.
DO $body$
DECLARE
    payload_type  constant regtype := 'json';
    names         constant text[] := parse_ident('public.outbox_emit');
    new_function  regprocedure;
    old_function  regprocedure;
    allowed       record;
BEGIN
    SELECT p.oid INTO STRICT new_function
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
    WHERE n.nspname = names[1] AND p.proname = names[2] AND p.pronargs = 6
        AND p.proargtypes[1] = 'text'::regtype AND p.proargtypes[3] = payload_type
        AND pg_get_userbyid(p.proowner) = current_user;

    FOR old_function IN
        SELECT p.oid
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = names[1] AND p.proname = names[2] AND p.pronargs IN (5, 6) AND p.oid <> new_function
            AND (p.proargtypes[1] = 'text'::regtype OR p.proargtypes[3] <> payload_type)
    LOOP
        FOR allowed IN
            SELECT acl.grantee::regrole AS role_name, acl.is_grantable
            FROM pg_proc AS p, aclexplode(p.proacl) AS acl
            WHERE p.oid = old_function AND acl.grantee NOT IN (0, p.proowner)
        LOOP
            EXECUTE 'GRANT EXECUTE ON FUNCTION ' || new_function || ' TO ' || allowed.role_name
                || CASE WHEN allowed.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END;
        END LOOP;
        EXECUTE 'DROP FUNCTION ' || old_function;
    END LOOP;
END
$body$;

COMMENT ON FUNCTION public.outbox_emit(
    aggregatetype text, aggregateid text, type text, payload json, headers jsonb, id uuid
) IS 'Writes one event into the write-ahead log and returns its id.';

-- By default every role may execute a new function. Here only roles with a GRANT may, see roles.sql.
REVOKE ALL ON FUNCTION public.outbox_emit(
    aggregatetype text, aggregateid text, type text, payload json, headers jsonb, id uuid
) FROM PUBLIC;

-- The same for a key that is an integer or a uuid. No call has two meanings: a literal or a parameter without a type is
-- a text. These run with the rights of their caller, which needs EXECUTE on the function above. A NULL of such a type
-- is an id that was lost on the way, and refused.
CREATE OR REPLACE FUNCTION public.outbox_emit(
    aggregatetype text,
    aggregateid bigint,
    type text,
    payload json,
    headers jsonb DEFAULT NULL,
    id uuid DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF aggregateid IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'not_null_violation',
            COLUMN = 'aggregateid',
            MESSAGE = 'aggregateid is NULL, of type bigint: it is the key of the record',
            HINT = 'the second argument is the id of what changed; for an event without a key write NULL::text';
    END IF;
    RETURN public.outbox_emit(aggregatetype, aggregateid::text, type, payload, headers, id);
END
$body$;

CREATE OR REPLACE FUNCTION public.outbox_emit(
    aggregatetype text,
    aggregateid uuid,
    type text,
    payload json,
    headers jsonb DEFAULT NULL,
    id uuid DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    IF aggregateid IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'not_null_violation',
            COLUMN = 'aggregateid',
            MESSAGE = 'aggregateid is NULL, of type uuid: it is the key of the record',
            HINT = 'the second argument is the id of what changed; for an event without a key write NULL::text';
    END IF;
    RETURN public.outbox_emit(aggregatetype, aggregateid::text, type, payload, headers, id);
END
$body$;

-- A slot cannot be streamed from without a publication. It need not have a table: messages pass it by. One that was
-- there before stays as it is.
DO $body$
DECLARE
    publication_name  constant name := 'cdc_outbox';
BEGIN
    IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = publication_name) THEN
        CREATE PUBLICATION cdc_outbox WITH (publish = 'insert', publish_via_partition_root = true);
    END IF;
END
$body$;

$script$;
PERFORM pg_catalog.set_config('search_path', callers_path, true);
END
$pinned$;
