-- Takes away what outbox.sql and roles.sql made, and the replication slot, in the order that does no harm: the slot
-- first, because a slot without a reader keeps WAL until the disk is full. The table and its rows stay, and so do the
-- roles, unless the two switches below are true. Set them by hand, or have this file printed with them set:
--   cdc-outbox sql uninstall --drop-table --drop-roles
--
-- The slots and publications of its shards (cdc_outbox_0_of_2, and so on) go too. A slot of another plugin or database,
-- and a function that outbox.sql did not make, stay.
--
-- Stop the relay first. While it streams, nothing is done at all: everything stands in one statement, so that an error
-- leaves all as it was, in psql too. Only the drop of a slot cannot be rolled back, which is why it comes first. Names
-- without a schema are looked up in pg_catalog alone, whatever search_path the session has. Run it as a superuser, or
-- as the owner of the table with REPLICATION (without it, after cdc-outbox slot drop), as often as you like. With psql:
--   psql -v ON_ERROR_STOP=1 -f uninstall.sql

DO $pinned$
DECLARE
    callers_path  constant pg_catalog.text := pg_catalog.current_setting('search_path');
BEGIN
PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
EXECUTE $script$

DO $body$
DECLARE
    drop_table        constant boolean := false;
    drop_roles        constant boolean := false;
    relay_slot        constant name := 'cdc_outbox';
    publication_name  constant name := 'cdc_outbox';
    outbox_table      constant regclass := to_regclass('public.outbox');
    outbox_schema     constant regnamespace := to_regnamespace('public');
    names             constant text[] := parse_ident('public.outbox_emit');
    has_other_tables  boolean;
    shard_suffixes    text[];
    found_slot        record;
    slots             name[] := '{}';
    object_name       text;
    role_name         name;
    reason            text;
BEGIN
    has_other_tables := EXISTS (
        SELECT FROM pg_publication_tables AS t
        JOIN pg_namespace AS n ON n.nspname = t.schemaname
        JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
        WHERE t.pubname = publication_name AND coalesce(pg_partition_root(c.oid), c.oid) IS DISTINCT FROM outbox_table);

    -- The publications of its shards, as shards.sql makes them, have this table and no other.
    SELECT coalesce(array_agg(suffix), '{}') INTO shard_suffixes
    FROM (
        SELECT substr(t.pubname, length(publication_name) + 1) AS suffix
        FROM pg_publication_tables AS t
        JOIN pg_namespace AS n ON n.nspname = t.schemaname
        JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
        WHERE left(t.pubname, length(publication_name)) = publication_name
        GROUP BY t.pubname HAVING bool_and(coalesce(pg_partition_root(c.oid), c.oid) = outbox_table)
    ) AS published WHERE suffix ~ '^_[0-9]+_of_[0-9]+$';

    FOR found_slot IN
        SELECT slot_name, active, active_pid, database, plugin FROM pg_replication_slots
        WHERE slot_name = relay_slot AND NOT has_other_tables
            OR plugin = 'pgoutput' AND database = current_database()
                AND slot_name = ANY (SELECT relay_slot || suffix FROM unnest(shard_suffixes) AS suffix)
        ORDER BY slot_name
    LOOP
        IF found_slot.plugin IS DISTINCT FROM 'pgoutput' THEN
            RAISE EXCEPTION USING
                ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = 'slot ' || found_slot.slot_name || ' is not one of cdc-outbox, its plugin is '
                    || coalesce(found_slot.plugin, 'none'),
                HINT = 'name another slot';
        ELSIF found_slot.database <> current_database() THEN
            RAISE EXCEPTION USING
                ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = 'slot ' || found_slot.slot_name || ' belongs to database ' || found_slot.database,
                HINT = 'connect to that database, or name another slot';
        ELSIF found_slot.active THEN
            RAISE EXCEPTION USING
                ERRCODE = 'object_in_use',
                MESSAGE = 'slot ' || found_slot.slot_name || ' is active: process ' || found_slot.active_pid
                    || ' streams from it',
                HINT = 'stop the relay, then run this again';
        END IF;
        slots := slots || found_slot.slot_name;
    END LOOP;
    PERFORM pg_drop_replication_slot(slot_name) FROM unnest(slots) AS slot_name;

    FOREACH object_name IN ARRAY shard_suffixes LOOP
        EXECUTE 'DROP PUBLICATION ' || quote_ident(publication_name || object_name);
    END LOOP;
    IF has_other_tables THEN
        -- A relay may stream the other tables: the publication stays, and so does the slot.
        IF EXISTS (
            SELECT FROM pg_publication_rel JOIN pg_publication AS p ON p.oid = prpubid
            WHERE p.pubname = publication_name AND prrelid = outbox_table)
        THEN
            ALTER PUBLICATION cdc_outbox DROP TABLE public.outbox;
        END IF;
        RAISE WARNING USING
            MESSAGE = 'publication ' || publication_name || ' has other tables too: it stays, and so does slot '
                || relay_slot,
            HINT = 'if no relay streams these any more: cdc-outbox slot drop, then DROP PUBLICATION';
    ELSE
        DROP PUBLICATION IF EXISTS cdc_outbox;
    END IF;

    -- A function of that name with other parameters is not from outbox.sql.
    FOR object_name IN
        SELECT p.oid::regprocedure::text FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = names[1] AND p.proname = names[2]
            AND p.proargnames[1:5] = '{aggregatetype,aggregateid,type,payload,headers}'
    LOOP
        EXECUTE 'DROP FUNCTION ' || object_name;
    END LOOP;
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = outbox_table AND tgname = 'delete_after_insert') THEN
        DROP TRIGGER delete_after_insert ON public.outbox;  -- rows that are inserted from now on stay
    END IF;
    DROP FUNCTION IF EXISTS public.outbox_delete();

    IF drop_table THEN
        DROP TABLE IF EXISTS public.outbox;
    END IF;

    IF drop_roles THEN
        FOREACH role_name IN ARRAY ARRAY['cdc_outbox_writer', 'cdc_outbox_relay', 'cdc_outbox_pruner']::name[] LOOP
            CONTINUE WHEN NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name);
            EXECUTE 'REVOKE ALL ON DATABASE ' || quote_ident(current_database()) || ' FROM ' || role_name;
            IF outbox_schema IS NOT NULL THEN
                EXECUTE 'REVOKE ALL ON SCHEMA ' || outbox_schema || ' FROM ' || role_name;
            END IF;
            IF outbox_table IS NOT NULL AND NOT drop_table THEN
                EXECUTE 'REVOKE ALL ON TABLE ' || outbox_table || ' FROM ' || role_name;
            END IF;
            BEGIN
                EXECUTE 'DROP ROLE ' || role_name;
            EXCEPTION WHEN dependent_objects_still_exist THEN
                GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL;
                RAISE WARNING USING
                    MESSAGE = 'role ' || role_name || ' stays: it is granted something elsewhere',
                    DETAIL = reason,
                    HINT = 'revoke that, then DROP ROLE ' || role_name;
            END;
        END LOOP;
    END IF;
END
$body$;

$script$;
PERFORM pg_catalog.set_config('search_path', callers_path, true);
END
$pinned$;
