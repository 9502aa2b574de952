-- Roles for cdc-outbox: one that may only emit, one that may only stream, one that may prune.
--
-- Run it after outbox.sql (or message.sql), because it grants on what that file makes: as a superuser, or as the
-- administrator of a managed service, who also must be allowed to grant on the table. Roles belong to the whole
-- cluster, grants to this database: run it once in each database that has an outbox. Running it again changes nothing.
-- With psql:
--   psql -v ON_ERROR_STOP=1 -f roles.sql
--
-- Nobody has a password after it. Give one to the relay, so that it is hashed before it is sent and logged (psql has
-- the command password for that, pgAdmin a field), or let it log in with a certificate.

DO $body$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('cdc-outbox', 0));
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
GRANT EXECUTE ON FUNCTION public.outbox_emit TO cdc_outbox_writer;

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
