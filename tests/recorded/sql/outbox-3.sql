-- Recorded, not to be changed: sql/outbox.sql with version 3 of the SQL objects, as it was when the key of outbox_emit had to be
-- text. Tests run today's relay on what this makes, and upgrade it.

-- The transactional outbox of cdc-outbox: table, emit function, publication.
--
-- Runs on PostgreSQL 14 to 18, through psql, any driver or any migration tool, as often as you like: existing objects
-- stay as they are. Run it as the role that owns the table, or will. That role needs CREATE on the database, for
-- the publication. With psql:
--   psql -v ON_ERROR_STOP=1 -f outbox.sql
--
-- A first installation, in order:
--   1. outbox.sql       this file, in your migrations, like any other table
--   2. roles.sql        after it, once, by an administrator
--   3. cdc-outbox run   creates the replication slot by itself. A slot has no place in a migration: it cannot be
--                       created in a transaction that has written, and one without a reader keeps WAL until the
--                       disk is full.
-- uninstall.sql takes all of it away again.
--
-- The file is one statement: after an error everything is as before, also in psql. While it runs, names without a
-- schema are looked up in pg_catalog alone, whatever search_path the session has: a function, operator or type that
-- another role has created in a schema of that path is never used. What exists already must belong to the role that
-- runs the file.
--
-- The file as it is shipped holds the default names and payload type. To have it printed with others:
--   cdc-outbox sql install --table events.orders --publication events --payload-type jsonb

DO $pinned$
DECLARE
    callers_path  constant pg_catalog.text := pg_catalog.current_setting('search_path');
BEGIN
PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
EXECUTE $script$

-- Installers that start together wait for each other.
DO $body$
DECLARE
    publication_name  constant name := 'cdc_outbox';
    names             constant text[] := parse_ident('public.outbox');
    found             record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('cdc-outbox', 0));
    IF to_regnamespace('public') IS NULL THEN
        CREATE SCHEMA public;
    END IF;

    -- A table of another role may carry triggers of that role, and these would run with the rights of the owner of the
    -- function. A function or publication of another role can be changed by that role at any time.
    FOR found IN
        SELECT 'table ' || c.oid::regclass AS object, c.relowner AS owner
        FROM pg_class AS c WHERE c.oid = to_regclass('public.outbox') AND pg_get_userbyid(c.relowner) <> current_user
        UNION ALL
        SELECT 'type ' || t.oid::regtype, t.typowner
        FROM pg_type AS t WHERE t.oid = to_regtype('public.outbox') AND pg_get_userbyid(t.typowner) <> current_user
        UNION ALL
        SELECT 'function ' || p.oid::regprocedure, p.proowner
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = names[1] AND p.proname IN (names[2] || '_emit', names[2] || '_delete')
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

-- One row is one event. Insert it in the transaction that makes the business change. It is never updated. The relay
-- reads the write-ahead log and not the table, so nothing but the primary key is indexed.
--
--   seq            the order of insertion. It makes the primary key an index that only grows at its end, and lets
--                  pruning and the reading of rows at a first start walk the table from old to new.
--   id             the identity of the event: the header id of its record, by which consumers drop duplicates. It has
--                  no unique constraint, on purpose. A second index, over values in random order, would be the dearest
--                  part of every insert, and would promise little: rows are pruned, and duplicates arise behind the
--                  table, when a record is sent a second time.
--   created_at     when the row was written. clock_timestamp() and not now(), which stands still within a transaction.
--   aggregatetype  the kind of thing that changed. It names the topic: outbox.event.<aggregatetype>
--   aggregateid    which of them: the key of the record. Records of one key keep commit order. NULL is a null key.
--   type           what happened: the header type. NULL is no such header.
--   payload        the value of the record, byte for byte as stored. NULL is a null value, a tombstone. json keeps a
--                  document as it was written, jsonb reorders its keys, text and bytea hold anything.
--   headers        a JSON object. Each member becomes a header of the record, a traceparent for instance.
--
-- Columns of fixed width come first, so that no row carries padding. Columns of your own may be added anywhere: the
-- relay finds columns by name.
CREATE TABLE IF NOT EXISTS public.outbox (
    seq           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id            uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    aggregatetype text NOT NULL CONSTRAINT aggregatetype_is_not_empty CHECK (aggregatetype <> ''),
    aggregateid   text,
    type          text,
    payload       json,
    headers       jsonb CONSTRAINT headers_is_an_object CHECK (jsonb_typeof(headers) = 'object')
);

-- A table that was there before must have what the relay and the function need. Two things may change here. The
-- default of id, if there is none (an event without an id would stop the relay), or if it is still the one from above
-- and the server has uuidv7(), whose values sort by time (18 and later). And the comment of the table, which keeps the
-- version of this file, as cdc-outbox:3, after any other text in it.
DO $body$
DECLARE
    outbox_table  constant regclass := 'public.outbox';
    payload_type  constant regtype := 'json';
    this_version  constant integer := 3;
    old_comment   text := obj_description(outbox_table, 'pg_class');
    old_version   integer := substring(old_comment FROM 'cdc-outbox:([0-9]+)');
    found_type    regtype;
    missing       text;
    id_default    text;
    id_type       regtype;
BEGIN
    IF old_version > this_version THEN
        RAISE EXCEPTION USING
            MESSAGE = 'table ' || outbox_table || ' was installed by a newer cdc-outbox: it is version ' || old_version
                || ', and this script is version ' || this_version,
            HINT = 'use the script of the newer cdc-outbox';
    END IF;

    SELECT string_agg(wanted, ', ') INTO missing
    FROM unnest(ARRAY['id', 'aggregatetype', 'aggregateid', 'type', 'payload', 'headers']) AS wanted
    WHERE wanted NOT IN (
        SELECT attname FROM pg_attribute WHERE attrelid = outbox_table AND attnum > 0 AND NOT attisdropped
    );
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION USING
            MESSAGE = 'table ' || outbox_table || ' is there already, and lacks: ' || missing,
            HINT = 'add these columns (headers as jsonb), or install under another name';
    END IF;

    SELECT atttypid INTO found_type FROM pg_attribute WHERE attrelid = outbox_table AND attname = 'payload';
    IF found_type <> payload_type THEN
        RAISE EXCEPTION USING
            MESSAGE = 'table ' || outbox_table || ' is there already, with a payload of type ' || found_type
                || ', not ' || payload_type,
            HINT = 'install with the payload type that it has, or change the type of the column first';
    END IF;

    SELECT pg_get_expr(adbin, adrelid), atttypid INTO id_default, id_type
    FROM pg_attribute LEFT JOIN pg_attrdef ON attrelid = adrelid AND attnum = adnum
    WHERE attrelid = outbox_table AND attname = 'id';
    IF id_default IS NULL AND id_type IN ('uuid'::regtype, 'text'::regtype, 'varchar'::regtype) THEN
        ALTER TABLE public.outbox ALTER COLUMN id SET DEFAULT gen_random_uuid();
        id_default := 'gen_random_uuid()';
    END IF;
    IF id_default = 'gen_random_uuid()' AND to_regprocedure('pg_catalog.uuidv7()') IS NOT NULL THEN
        ALTER TABLE public.outbox ALTER COLUMN id SET DEFAULT uuidv7();
    END IF;

    IF old_version IS NULL THEN
        EXECUTE 'COMMENT ON TABLE ' || outbox_table || ' IS ' || quote_literal(
            coalesce(old_comment, 'Transactional outbox: every row becomes a Kafka record.')
            || ' cdc-outbox:' || this_version);
    ELSIF old_version < this_version THEN
        EXECUTE 'COMMENT ON TABLE ' || outbox_table || ' IS ' || quote_literal(
            regexp_replace(old_comment, 'cdc-outbox:[0-9]+', 'cdc-outbox:' || this_version));
    END IF;
END
$body$;

-- Writes one event and returns its id. One call from any language, in the transaction that makes the business change:
--   SELECT public.outbox_emit('order', '42', 'OrderPlaced', '{"total": 99}')
-- It runs with the rights of its owner: a role with EXECUTE can add events, and needs no privilege on the table. The
-- search path is pinned, as it must be in a function that runs with rights its caller does not have. A caller that
-- needs the id beforehand makes it, and passes it as the last argument. Else it is the default of the column.
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
    event_id uuid := id;
BEGIN
    IF aggregatetype IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'not_null_violation',
            MESSAGE = 'aggregatetype is NULL: it names the topic of the event',
            HINT = 'the first argument is the kind of thing that changed, such as order';
    END IF;
    IF event_id IS NULL THEN
        INSERT INTO public.outbox AS event (aggregatetype, aggregateid, type, payload, headers)
        VALUES (aggregatetype, aggregateid, type, payload, headers)
        RETURNING event.id INTO event_id;
    ELSE
        INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload, headers)
        VALUES (event_id, aggregatetype, aggregateid, type, payload, headers);
    END IF;
    RETURN event_id;
END
$body$;

-- The parameters are part of what a function is. One that is left from before, for another payload type or without
-- the id, has to go: with both of them, calls would be ambiguous. Roles that could execute it can execute the new one.
DO $body$
DECLARE
    payload_type  constant regtype := 'json';
    new_function  regprocedure;
    old_function  regprocedure;
    allowed       record;
BEGIN
    SELECT p.oid INTO STRICT new_function
    FROM pg_proc AS p JOIN pg_class AS c ON c.relnamespace = p.pronamespace AND p.proname = c.relname || '_emit'
    WHERE c.oid = 'public.outbox'::regclass AND p.pronargs = 6 AND p.proargtypes[3] = payload_type
        AND pg_get_userbyid(p.proowner) = current_user AND pg_get_userbyid(c.relowner) = current_user;

    FOR old_function IN
        SELECT p.oid
        FROM pg_proc AS p JOIN pg_class AS c ON c.relnamespace = p.pronamespace AND p.proname = c.relname || '_emit'
        WHERE c.oid = 'public.outbox'::regclass AND p.pronargs IN (5, 6) AND p.oid <> new_function
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

COMMENT ON FUNCTION public.outbox_emit IS 'Writes one event into the transactional outbox and returns its id.';

-- By default every role may execute a new function. Here only roles with a GRANT may, see roles.sql.
REVOKE ALL ON FUNCTION public.outbox_emit FROM PUBLIC;

-- The publication defines what the relay receives: insertions into this table. Of a partitioned table they arrive under
-- the name of its root. A publication that was there before gets the table added, and keeps the others that it has. Its
-- options are corrected, unless other tables depend on them.
DO $body$
DECLARE
    publication_name  constant name := 'cdc_outbox';
    outbox_table      constant regclass := 'public.outbox';
    found_publication pg_publication;
    has_other_tables  boolean;
BEGIN
    SELECT * INTO found_publication FROM pg_publication WHERE pubname = publication_name;
    IF NOT FOUND THEN
        CREATE PUBLICATION cdc_outbox FOR TABLE public.outbox
            WITH (publish = 'insert', publish_via_partition_root = true);
        RETURN;
    END IF;

    IF NOT found_publication.puballtables
        AND NOT EXISTS (
            SELECT FROM pg_publication_rel WHERE prpubid = found_publication.oid AND prrelid = outbox_table)
        AND NOT EXISTS (
            SELECT FROM pg_publication_tables AS t
            JOIN pg_namespace AS n ON n.nspname = t.schemaname
            JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
            WHERE t.pubname = publication_name AND c.oid = outbox_table)
    THEN
        ALTER PUBLICATION cdc_outbox ADD TABLE public.outbox;
    END IF;

    IF found_publication.pubinsert AND found_publication.pubviaroot
        AND NOT (found_publication.pubupdate OR found_publication.pubdelete OR found_publication.pubtruncate)
    THEN
        RETURN;
    END IF;

    has_other_tables := found_publication.puballtables OR EXISTS (
        SELECT FROM pg_publication_tables AS t
        JOIN pg_namespace AS n ON n.nspname = t.schemaname
        JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
        WHERE t.pubname = publication_name AND coalesce(pg_partition_root(c.oid), c.oid) <> outbox_table);
    IF has_other_tables THEN
        RAISE WARNING USING
            MESSAGE = 'publication ' || publication_name || ' has other tables too, so its options stay as they are',
            HINT = 'use a publication of its own: cdc-outbox wants publish = insert, publish_via_partition_root = true';
    ELSE
        ALTER PUBLICATION cdc_outbox SET (publish = 'insert', publish_via_partition_root = true);
    END IF;
END
$body$;

$script$;
PERFORM pg_catalog.set_config('search_path', callers_path, true);
END
$pinned$;
