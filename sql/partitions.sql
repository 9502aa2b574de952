
-- The partitions: one for each day (of UTC), from today on, and a default one for rows that no other has. The default
-- one is there so that no insert ever fails: keep it empty by making days before they come, and by dropping them when
-- they are old and delivered:
--   cdc-outbox prune --older-than 7d --partitions-ahead 7
-- A partitioned table needs its partition key in every unique index: the primary key is (seq, created_at).

DO $pinned$
DECLARE
    callers_path  constant pg_catalog.text := pg_catalog.current_setting('search_path');
BEGIN
PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
EXECUTE $script$

DO $body$
DECLARE
    outbox_table  constant regclass := 'public.outbox';
    days_ahead    constant integer := 7;
    schema_name   name;
    table_name    name;
    kind          "char";
    owner_oid     oid;
    today         constant timestamp := date_trunc('day', now() AT TIME ZONE 'UTC');
    as_utc        constant text := 'YYYY-MM-DD "00:00+00"';  -- read alike whatever DateStyle and TimeZone are
    day           timestamp;
    part_name     name;
    part_table    regclass;
BEGIN
    SELECT nspname, relname, relkind, relowner INTO schema_name, table_name, kind, owner_oid
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = outbox_table;
    IF pg_get_userbyid(owner_oid) <> current_user THEN
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'table ' || outbox_table || ' belongs to role ' || pg_get_userbyid(owner_oid) || ', not to '
                || current_user,
            HINT = 'run this as that role: SET ROLE ' || quote_ident(pg_get_userbyid(owner_oid));
    END IF;
    IF kind <> 'p' THEN
        RAISE EXCEPTION USING
            MESSAGE = 'table ' || outbox_table || ' is there already, and is not partitioned',
            HINT = 'install without partitions, or under another name';
    END IF;

    IF (SELECT partdefid FROM pg_partitioned_table WHERE partrelid = outbox_table) = 0 THEN
        EXECUTE format('CREATE TABLE %I.%I PARTITION OF %s DEFAULT',
            schema_name, left(table_name, 55) || '_default', outbox_table);
    END IF;

    FOR day IN SELECT generate_series(today, today + make_interval(days => days_ahead), interval '1 day') LOOP
        part_name := left(table_name, 54) || to_char(day, '_YYYYMMDD');
        part_table := to_regclass(format('%I.%I', schema_name, part_name));
        IF part_table IS NOT NULL
            AND NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = part_table AND inhparent = outbox_table)
        THEN
            SELECT relowner INTO owner_oid FROM pg_class WHERE oid = part_table;
            RAISE EXCEPTION USING
                ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = 'table ' || part_table || ' of role ' || pg_get_userbyid(owner_oid)
                    || ' has the name of a partition, and is not a partition of ' || outbox_table,
                HINT = 'drop or rename it';
        ELSIF part_table IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE %I.%I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                    schema_name, part_name, outbox_table,
                    to_char(day, as_utc), to_char(day + interval '1 day', as_utc));
            EXCEPTION WHEN check_violation THEN
                RAISE WARNING 'rows of % are in the default partition of %, and stay there', day::date, outbox_table;
            END;
        END IF;
    END LOOP;
END
$body$;

$script$;
PERFORM pg_catalog.set_config('search_path', callers_path, true);
END
$pinned$;
