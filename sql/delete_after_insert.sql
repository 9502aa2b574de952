-- Rows are deleted in the transaction that inserts them: the table stays empty. The relay sends them all the same,
-- since it reads the write-ahead log. Nothing has to be pruned.
--
-- There is nothing to read again, though: no row for a first start, for cdc-outbox slot recover, or for a replay. An
-- event that was committed before the replication slot was made, or that a lost slot had not delivered, is gone. So
-- make the slot before the first event:
--   cdc-outbox slot create
--
-- Run it after outbox.sql, as the role that owns the table, as often as you like. To have both printed:
--   cdc-outbox sql install --delete-after-insert
-- To keep rows again:
--   DROP TRIGGER delete_after_insert ON public.outbox

DO $pinned$
DECLARE
    callers_path  constant pg_catalog.text := pg_catalog.current_setting('search_path');
BEGIN
PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
EXECUTE $script$

DO $body$
DECLARE
    outbox_table  constant regclass := 'public.outbox';
    names         constant text[] := parse_ident('public.outbox');
    found         record;
BEGIN
    -- A table of another role may carry triggers of that role, and these would run with the rights of the owner of the
    -- function. A function or publication of another role can be changed by that role at any time.
    FOR found IN
        SELECT 'table ' || c.oid::regclass AS object, c.relowner AS owner
        FROM pg_class AS c WHERE c.oid = to_regclass('public.outbox') AND pg_get_userbyid(c.relowner) <> current_user
        UNION ALL
        SELECT 'function ' || p.oid::regprocedure, p.proowner
        FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = names[1] AND p.proname IN (names[2] || '_delete')
            AND pg_get_userbyid(p.proowner) <> current_user
    LOOP
        RAISE EXCEPTION USING
            ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = found.object || ' belongs to role ' || pg_get_userbyid(found.owner) || ', not to '
                || current_user,
            HINT = 'if that is right, run this as that role: SET ROLE ' || quote_ident(pg_get_userbyid(found.owner))
                || '. Else drop or rename it, or install under another name';
    END LOOP;

    IF NOT EXISTS (
        SELECT FROM pg_index JOIN pg_attribute AS a ON a.attrelid = indrelid AND a.attnum = indkey[0]
        WHERE indrelid = outbox_table AND indisprimary AND a.attname = 'seq')
    THEN
        RAISE EXCEPTION USING
            MESSAGE = 'table ' || outbox_table || ' is there already, and seq is not its primary key: rows to '
                || 'be deleted could not be found',
            HINT = 'install it so that rows are kept, or under another name';
    END IF;
END
$body$;

-- It runs with the rights of its owner, so that a role that may insert needs no privilege to delete. The delete is not
-- published: the publication has insertions alone.
CREATE OR REPLACE FUNCTION public.outbox_delete() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    DELETE FROM public.outbox WHERE seq = NEW.seq;
    RETURN NULL;
END
$body$;

COMMENT ON FUNCTION public.outbox_delete() IS 'Deletes a row of the transactional outbox as soon as it is inserted.';

REVOKE ALL ON FUNCTION public.outbox_delete() FROM PUBLIC;

CREATE OR REPLACE TRIGGER delete_after_insert AFTER INSERT ON public.outbox
    FOR EACH ROW EXECUTE FUNCTION public.outbox_delete();

$script$;
PERFORM pg_catalog.set_config('search_path', callers_path, true);
END
$pinned$;
