-- Roles that may do what archiver_pipeline needs, and nothing else. PostgreSQL 11 to 18.
--
-- Run it once for each table, as the table's owner or a superuser; it may be repeated:
--
--     psql -d shop -v schema=public -v table=audit_log -f roles.sql
--
-- Optional: -v holds=legal_holds (-v holds_schema=public) where holds come from a table,
--           -v watermarks=restore_watermarks             where restores are remembered in the database.
--
-- Then give each role a password (\password archiver_archive) and name it in the configuration: archiver_archive as `user`;
-- archiver_restore and archiver_validate in configurations of their own, for whoever restores and validates.
--
-- PostgreSQL gives TEMPORARY on each database to everybody, and before version 15 also CREATE on schema public. To take that
-- from everybody else (applications may rely on it):
--     REVOKE TEMPORARY ON DATABASE shop FROM PUBLIC;  REVOKE CREATE ON SCHEMA public FROM PUBLIC;

\set ON_ERROR_STOP on
\if :{?schema}
\else
    \set schema public
\endif
\if :{?holds_schema}
\else
    \set holds_schema public
\endif

-- The roles. archiver_holds_reader can't log in: it is what archiver_archive may do with the hold table.
SELECT pg_catalog.format('CREATE ROLE %I %s', name, login)
FROM (VALUES ('archiver_archive', 'LOGIN'), ('archiver_restore', 'LOGIN'), ('archiver_validate', 'LOGIN'),
    ('archiver_holds_reader', 'NOLOGIN')) AS wanted(name, login)
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = wanted.name) \gexec

BEGIN;

-- All: connect, and look the table up.
GRANT CONNECT ON DATABASE :"DBNAME" TO archiver_archive, archiver_restore, archiver_validate;
GRANT USAGE ON SCHEMA :"schema" TO archiver_archive, archiver_restore, archiver_validate;

-- archiver_archive: `archiver run`, check, status, cost, hold list, the sensors of Dagster.
-- SELECT reads rows and their versions, DELETE removes those that were proved. No INSERT, no UPDATE: it can't make or change
-- a row. TEMPORARY: the versions to delete are loaded into a temporary table of the transaction.
GRANT SELECT, DELETE ON :"schema".:"table" TO archiver_archive;
GRANT TEMPORARY ON DATABASE :"DBNAME" TO archiver_archive;
-- VACUUM after the delete. Before PostgreSQL 17 only the table's owner may, so the run says that it was skipped, and
-- autovacuum does it in its time.
SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 170000 AS has_maintain \gset
\if :has_maintain
    GRANT MAINTAIN ON :"schema".:"table" TO archiver_archive;
\endif
-- `archiver status` sees who of this very role holds a lock; to be told of others: GRANT pg_read_all_stats TO archiver_archive.
-- Where `throttle` looks at standbys or at others' transactions: GRANT pg_monitor TO archiver_archive.

-- archiver_restore: `archiver restore`. INSERT brings rows back, SELECT compares them with what is there; UPDATE is for the
-- conflict strategies overwrite and upsert: leave it out where only skip and fail are used. No DELETE. TEMPORARY: rows land in
-- a temporary table first.
GRANT SELECT, INSERT, UPDATE ON :"schema".:"table" TO archiver_restore;
GRANT TEMPORARY ON DATABASE :"DBNAME" TO archiver_restore;
-- Sequences of its columns are moved past the restored rows, so that the application's next insert does not collide.
SELECT pg_catalog.format('GRANT SELECT, UPDATE ON SEQUENCE %s TO archiver_restore', s.oid::pg_catalog.regclass)
FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_catalog.pg_class c ON c.oid = d.refobjid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE d.deptype IN ('a', 'i') AND d.refobjsubid > 0 AND n.nspname = :'schema' AND c.relname = :'table' \gexec

-- archiver_validate: `archiver validate`. Reads, and nothing else.
GRANT SELECT ON :"schema".:"table" TO archiver_validate;

-- The hold table: read it, and lock it while a delete commits, so that a hold placed in between wins. Before PostgreSQL 17
-- every privilege that allows the lock also allows to change holds; a function of the owner's locks it instead.
\if :{?holds}
    GRANT USAGE ON SCHEMA :"holds_schema" TO archiver_holds_reader;
    GRANT SELECT ON :"holds_schema".:"holds" TO archiver_holds_reader;
    \if :has_maintain
        GRANT MAINTAIN ON :"holds_schema".:"holds" TO archiver_holds_reader;
    \else
        SELECT pg_catalog.format('CREATE OR REPLACE FUNCTION %1$I.%3$I() RETURNS void LANGUAGE plpgsql SECURITY DEFINER'
            ' SET search_path = '''' AS $$ BEGIN LOCK TABLE %1$I.%2$I IN SHARE MODE; END $$;'
            ' REVOKE ALL ON FUNCTION %1$I.%3$I() FROM PUBLIC;'
            ' GRANT EXECUTE ON FUNCTION %1$I.%3$I() TO archiver_holds_reader',
            :'holds_schema', :'holds', pg_catalog.left('lock_' || :'holds', 63)) \gexec
    \endif
    GRANT archiver_holds_reader TO archiver_archive;
\endif

-- The restore watermark: made here, so that archiver_restore needs no CREATE on the schema.
\if :{?watermarks}
    CREATE TABLE IF NOT EXISTS public.:"watermarks" (
        source_database text NOT NULL, source_schema text NOT NULL, source_table text NOT NULL,
        target_schema text NOT NULL, target_table text NOT NULL, batch_id text NOT NULL, data_key text NOT NULL,
        rows bigint NOT NULL, restored_at timestamptz NOT NULL, run_id text NOT NULL,
        PRIMARY KEY (source_database, source_schema, source_table, target_schema, target_table, batch_id));
    GRANT USAGE ON SCHEMA public TO archiver_restore;
    GRANT SELECT, INSERT, UPDATE ON public.:"watermarks" TO archiver_restore;
\endif

COMMIT;
