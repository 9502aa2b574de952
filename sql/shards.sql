-- Publications for several relays on one outbox: one for each shard, with the rows of its share of the keys.
--
-- Needs PostgreSQL 15 or newer. Run it after outbox.sql, as the role that owns the table, as often as you like: a
-- publication that exists already stays as it is. Each relay is started for one shard (cdc-outbox run --shard 0/2), and
-- finds its publication by its name: cdc_outbox_0_of_2.
--
-- The file as it is shipped is for two shards. To have it printed after outbox.sql for others:
--   cdc-outbox sql install --shards 4

DO $pinned$
DECLARE
    callers_path  constant pg_catalog.text := pg_catalog.current_setting('search_path');
BEGIN
PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
EXECUTE $script$

DO $body$
DECLARE
    publication_name  constant name := 'cdc_outbox';
    outbox_table      constant regclass := 'public.outbox';
    shards            constant integer := 2;
    shard_name        name;
    owner_name        name;
BEGIN
    IF current_setting('server_version_num')::integer < 150000 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'feature_not_supported',
            MESSAGE = 'publications have row filters since PostgreSQL 15',
            HINT = 'use one relay, or a newer server';
    END IF;
    FOR shard IN 0 .. shards - 1 LOOP
        shard_name := publication_name || '_' || shard || '_of_' || shards;
        SELECT pg_get_userbyid(p.pubowner) INTO owner_name
        FROM pg_publication AS p JOIN pg_roles AS r ON r.oid = p.pubowner
        WHERE p.pubname = shard_name AND r.rolname <> current_user AND NOT r.rolsuper;
        IF FOUND THEN
            RAISE EXCEPTION USING
                ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = 'publication ' || quote_ident(shard_name) || ' belongs to role ' || owner_name || ', not to '
                    || current_user,
                HINT = 'drop it, or choose another name for the publication';
        END IF;
        CONTINUE WHEN EXISTS (SELECT FROM pg_publication WHERE pubname = shard_name);
        -- The cast makes the call exact also for a key of type varchar.
        EXECUTE format(
            'CREATE PUBLICATION %I FOR TABLE %s'
            ' WHERE (mod(hashtext(coalesce(aggregateid, '''')::text) & 2147483647, %s) = %s)'
            ' WITH (publish = ''insert'', publish_via_partition_root = true)',
            shard_name, outbox_table, shards, shard);
    END LOOP;
END
$body$;

$script$;
PERFORM pg_catalog.set_config('search_path', callers_path, true);
END
$pinned$;
