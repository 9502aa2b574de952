-- Roles for cdc-outbox: one that may only emit, one that may only stream, one that may prune.
--
-- Run it after outbox.sql (or message.sql), because it grants on what that file makes: as a superuser, or as the
-- administrator of a managed service, who also must be allowed to grant on the table. Roles belong to the whole
-- cluster, grants to this database: run it once in each database that has an outbox. Running it again changes nothing.
-- With psql:
--   psql -v ON_ERROR_STOP=1 -f roles.sql
--
-- The file is one statement: after an error everything is as before, also in psql. While it runs, names without a
-- schema are looked up in pg_catalog alone, whatever search_path the session has: a function, operator or type that
-- another role has created in a schema of that path is never used.
--
-- The roles have no password. Give one to the relay, so that it is hashed before it is sent and logged (psql has
-- the command password for that, pgAdmin a field), or let it log in with a certificate.

DO $pinned$
DECLARE
    callers_path  constant pg_catalog.text := pg_catalog.current_setting('search_path');
BEGIN
PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
EXECUTE $script$

DO $body$
DECLARE
    names  constant text[] := parse_ident('public.outbox_emit');
    found  record;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('cdc-outbox', 0));

    -- What is granted below must be what outbox.sql (or message.sql) makes: a function that runs with the rights of the
    -- owner of the table, and with no other.
    FOR found IN
        SELECT p.oid::regprocedure AS function, pg_get_userbyid(p.proowner) AS owner, p.prosecdef AS definer,
            p.proargtypes[1] = 'text'::regtype AS has_text_key, pg_get_userbyid(c.relowner) AS table_owner
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        LEFT JOIN pg_class AS c ON c.oid = to_regclass('public.outbox')
        WHERE n.nspname = names[1] AND p.proname = names[2]
    LOOP
        IF found.owner <> found.table_owner THEN
            RAISE EXCEPTION USING
                ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = 'function ' || found.function || ' belongs to role ' || found.owner
                    || ', and its table to role ' || found.table_owner,
                HINT = 'one role must own both: drop the function, then run outbox.sql as the owner of the table';
        ELSIF found.has_text_key AND NOT found.definer THEN
            RAISE EXCEPTION USING
                ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = 'function ' || found.function || ' of role ' || found.owner
                    || ' runs with the rights of its caller: outbox.sql did not make it',
                HINT = 'drop it, then run outbox.sql as the owner of the table';
        END IF;
    END LOOP;

    -- A role that may hand out one of these roles to itself would receive what is granted here.
    FOR found IN
        SELECT granted.rolname AS role_name, holder.rolname AS holder
        FROM pg_auth_members AS m
        JOIN pg_roles AS granted ON granted.oid = m.roleid
        JOIN pg_roles AS holder ON holder.oid = m.member
        WHERE m.admin_option AND NOT holder.rolsuper AND holder.rolname <> current_user
            AND (granted.rolname = 'cdc_outbox_relay' AND NOT granted.rolreplication
                OR granted.rolname = 'cdc_outbox_pruner'
                    AND NOT has_table_privilege(granted.oid, to_regclass('public.outbox'), 'DELETE'))
    LOOP
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'role ' || found.role_name || ' exists, and role ' || quote_ident(found.holder)
                || ' may grant it to any role',
            HINT = 'REVOKE ADMIN OPTION FOR ' || found.role_name || ' FROM ' || quote_ident(found.holder)
                || ', or drop the role, and run this again';
    END LOOP;

    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cdc_outbox_writer') THEN
        CREATE ROLE cdc_outbox_writer NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cdc_outbox_pruner') THEN
        CREATE ROLE cdc_outbox_pruner NOLOGIN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'cdc_outbox_relay') THEN
        CREATE ROLE cdc_outbox_relay LOGIN;
    END IF;
END
$body$;

-- The writer: what your application is granted. It can add events through the function, and nothing else: it can
-- neither read, change nor delete any. Give it to the role your application logs in as:
--   GRANT cdc_outbox_writer TO my_application
GRANT USAGE ON SCHEMA public TO cdc_outbox_writer;
DO $body$
DECLARE
    names     constant text[] := parse_ident('public.outbox_emit');
    function  regprocedure;
BEGIN
    FOR function IN
        SELECT p.oid FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = names[1] AND p.proname = names[2] AND p.prosecdef
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION ' || function || ' TO cdc_outbox_writer';
    END LOOP;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING
            ERRCODE = 'undefined_function',
            MESSAGE = 'there is no function ' || array_to_string(names, '.'),
            HINT = 'run outbox.sql (or message.sql) first';
    END IF;
END
$body$;

-- An application that inserts with its own INSERT, through an ORM for instance, needs these two as well. The second is
-- for INSERT ... RETURNING id, which most ORMs send:
--   GRANT INSERT ON TABLE public.outbox TO cdc_outbox_writer
--   GRANT SELECT (id) ON TABLE public.outbox TO cdc_outbox_writer

-- The relay: it streams. For that it needs to connect, and the attribute REPLICATION, and no privilege on any table.
-- Know what REPLICATION is, though: with a slot of its own making, such a role can read the changes of every table in
-- every database that it can connect to, it can drop every slot, and it can copy the whole cluster as a base backup.
-- Treat its password like that of an administrator, and admit it in pg_hba.conf from the addresses of the relay alone,
-- by hostssl with scram-sha-256 or a certificate.
--
-- Amazon RDS and Aurora have the role rds_replication in place of the attribute, and rds.logical_replication = 1 in the
-- parameter group in place of wal_level. Google Cloud SQL: the flag cloudsql.logical_decoding = on. Azure: wal_level =
-- logical in the server parameters. On the latter two the administrator may set the attribute as it stands here.
DO $body$
BEGIN
    EXECUTE 'GRANT CONNECT ON DATABASE ' || quote_ident(current_database()) || ' TO cdc_outbox_relay';
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'rds_replication') THEN
        GRANT rds_replication TO cdc_outbox_relay;
    ELSIF NOT (SELECT rolreplication FROM pg_roles WHERE rolname = 'cdc_outbox_relay') THEN
        ALTER ROLE cdc_outbox_relay REPLICATION;
    END IF;
END
$body$;

-- Only the first start reads the table: the rows that were committed before there was a slot (and so does
-- slot recover, after a slot was lost). Leave these two out if the relay runs with --no-snapshot or --no-create-slot.
-- An outbox without a table (message.sql) has nothing to grant here.
GRANT USAGE ON SCHEMA public TO cdc_outbox_relay;
DO $body$
BEGIN
    IF to_regclass('public.outbox') IS NOT NULL THEN
        GRANT SELECT ON TABLE public.outbox TO cdc_outbox_relay;
    END IF;
END
$body$;

-- The pruner: what cdc-outbox prune needs, and nothing before you prune. For run --prune-after, in the relay itself:
--   GRANT cdc_outbox_pruner TO cdc_outbox_relay
GRANT USAGE ON SCHEMA public TO cdc_outbox_pruner;
DO $body$
BEGIN
    IF to_regclass('public.outbox') IS NOT NULL THEN
        GRANT SELECT, DELETE ON TABLE public.outbox TO cdc_outbox_pruner;
    END IF;
END
$body$;

$script$;
PERFORM pg_catalog.set_config('search_path', callers_path, true);
END
$pinned$;
