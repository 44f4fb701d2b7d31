"""Where rows are restored to: other tables, schemas and databases, and what lives on tables besides rows."""

import secrets
import uuid
from collections import Counter
from dataclasses import replace

import pytest

from archiver_pipeline.domain.restore import ConflictStrategy
from archiver_pipeline.errors import PermissionDeniedError, PreflightError, SourceError
from archiver_pipeline.sandbox import sample_data
from archiver_pipeline_tests.engine.restore_cases import (
    account_report,
    archived,
    failed,
    key_of_row,
    rows_of,
    value,
)
from archiver_pipeline_tests.plugins.archiving import OLD_ROWS, YOUNG_ROWS

OLD = "SELECT * FROM {} WHERE id < 100000"


@pytest.fixture
def old_rows(archiving, audit):
    """The rows that were archived, as they were."""
    before = rows_of(archiving.database, OLD.format("public.audit_logs"))
    archived(archiving, audit)
    return before


@pytest.fixture
def copy(archiving, audit, restoring):
    """An empty table like the archived one, that nothing archives."""
    archiving.database.execute("CREATE TABLE copy (LIKE audit_logs INCLUDING ALL)")
    return restoring.name("copy")


@pytest.fixture
def role(archiving):
    """A login role without privileges, which goes away with all it owns."""
    name = f"role_{secrets.token_hex(4)}"
    archiving.database.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{archiving.database.password}'")
    yield name
    archiving.database.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def into(restoring, target, **how):
    return account_report(restoring.restore(restoring.name(), target, configured=False, **how))


def test_another_table(archiving, audit, restoring, old_rows, copy):
    report = into(restoring, copy)
    assert rows_of(archiving.database, "SELECT * FROM public.copy") == old_rows
    assert len(audit.table_rows()) == YOUNG_ROWS
    assert report.protected_until is None
    assert [key for key in archiving.bucket.keys("") if ".protections" in key] == []


def test_another_schema_whose_table_has_another_order_of_columns(archiving, restoring, old_rows):
    archiving.database.execute('CREATE SCHEMA "Old stuff"')
    archiving.database.execute(
        'CREATE TABLE "Old stuff"."Audit%s" (amount numeric, tags text[], id bigint PRIMARY KEY, changes jsonb,'
        " actor text, created_at timestamptz)"
    )
    into(restoring, restoring.name("Audit%s", schema="Old stuff"))
    found = 'SELECT id, created_at, actor, changes, tags, amount FROM "Old stuff"."Audit%s"'
    assert rows_of(archiving.database, found) == old_rows


def test_another_database(archiving, audit, restoring, old_rows, postgres_server):
    name = f"test_{uuid.uuid4().hex[:12]}"
    postgres_server.create_database(name)
    other = replace(archiving.database, name=name, conninfo=postgres_server.dsn(name))
    try:
        with pytest.raises(PreflightError, match="no such table"):
            restoring.restore(database=other)
        other.execute(
            "CREATE TABLE audit_logs (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, actor text NOT NULL,"
            " changes jsonb, tags text[] NOT NULL, amount numeric)"
        )
        account_report(restoring.restore(database=other))
        assert rows_of(other, "SELECT * FROM public.audit_logs") == old_rows
        assert len(audit.table_rows()) == YOUNG_ROWS
    finally:
        for session in restoring.opened:
            session.close()
        sample_data.drop_database(postgres_server.dsn(), name)


FUNCTION = "CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {} END $$"
CHANGING = {
    "changes a value": "NEW.actor := upper(NEW.actor); RETURN NEW;",
    "changes the key": "NEW.id := NEW.id + 1000; RETURN NEW;",
    "changes one row of many": "IF NEW.id = 7 THEN NEW.amount := 1; END IF; RETURN NEW;",
    "drops the row": "RETURN NULL;",
    "drops one row of many": "IF NEW.id = 7 THEN RETURN NULL; END IF; RETURN NEW;",
}


@pytest.mark.parametrize("body", CHANGING)
@pytest.mark.parametrize("conflict", list(ConflictStrategy))
def test_triggers_that_change_or_drop_rows_are_refused(archiving, restoring, old_rows, copy, body, conflict):
    archiving.database.execute(FUNCTION.format("meddle", CHANGING[body]))
    archiving.database.execute(
        "CREATE TRIGGER meddling BEFORE INSERT ON copy FOR EACH ROW EXECUTE FUNCTION public.meddle()"
    )
    report = into(restoring, copy, conflict=conflict)
    refused = failed(report)
    assert len(refused) == (1 if "one row" in body else len(report.objects))
    assert all("trigger" in item.reason for item in refused)
    found = rows_of(archiving.database, "SELECT * FROM public.copy")
    assert found.total() == OLD_ROWS - report.failed_rows
    assert found <= old_rows
    archiving.database.execute("ALTER TABLE copy DISABLE TRIGGER meddling")
    into(restoring, copy, conflict=conflict)
    assert rows_of(archiving.database, "SELECT * FROM public.copy") == old_rows


def test_a_trigger_that_changes_updates_is_refused(archiving, restoring, old_rows, copy):
    into(restoring, copy)
    archiving.database.execute(FUNCTION.format("touch", "NEW.actor := 'touched'; RETURN NEW;"))
    archiving.database.execute(
        "CREATE TRIGGER touching BEFORE UPDATE ON copy FOR EACH ROW EXECUTE FUNCTION public.touch()"
    )
    report = into(restoring, copy, conflict=ConflictStrategy.upsert, ignore_watermark=True)
    assert report.failed_rows == OLD_ROWS
    assert rows_of(archiving.database, "SELECT * FROM public.copy") == old_rows


def test_triggers_that_change_nothing_fire(archiving, restoring, old_rows, copy):
    archiving.database.execute("CREATE TABLE seen (moment text, id bigint)")
    archiving.database.execute(FUNCTION.format("note", "INSERT INTO public.seen VALUES (TG_WHEN, NEW.id); RETURN NEW;"))
    for moment in ("BEFORE", "AFTER"):
        archiving.database.execute(
            f"CREATE TRIGGER {moment} {moment} INSERT ON copy FOR EACH ROW EXECUTE FUNCTION public.note()"
        )
    into(restoring, copy)
    assert rows_of(archiving.database, "SELECT * FROM public.copy") == old_rows
    assert archiving.database.execute("SELECT moment, count(DISTINCT id) FROM seen GROUP BY 1 ORDER BY 1") == [
        ("AFTER", OLD_ROWS),
        ("BEFORE", OLD_ROWS),
    ]


def test_a_trigger_that_raises_leaves_out_its_object(archiving, audit, restoring, old_rows, copy):
    archiving.database.execute(FUNCTION.format("forbid", "IF NEW.id = 7 THEN RAISE 'not 7'; END IF; RETURN NEW;"))
    archiving.database.execute(
        "CREATE TRIGGER forbidding AFTER INSERT ON copy FOR EACH ROW EXECUTE FUNCTION public.forbid()"
    )
    report = into(restoring, copy)
    [left_out] = failed(report)
    assert left_out.data_key == key_of_row(audit, 7)
    assert "not 7" in left_out.reason


@pytest.mark.parametrize(
    "kind", ["bigserial", "bigint GENERATED ALWAYS AS IDENTITY", "int GENERATED BY DEFAULT AS IDENTITY"]
)
def test_identity_and_serial_values_are_kept_and_their_sequences_moved(archiving, restoring, kind):
    archiving.database.execute(f'CREATE TABLE audit_logs ("Id" {kind} PRIMARY KEY, created_at timestamptz NOT NULL)')
    archiving.database.execute(
        "INSERT INTO audit_logs (created_at) SELECT now() - interval '50 days' FROM generate_series(1, 25)"
    )
    before = archived(archiving, archiving.ledger())
    sequence = value(archiving.database, "SELECT pg_get_serial_sequence('audit_logs', 'Id')")
    archiving.database.execute(f"SELECT setval('{sequence}', 3)")
    report = account_report(restoring.restore())
    assert rows_of(archiving.database, "SELECT * FROM public.audit_logs") == before
    assert any("Id" in warning for warning in report.warnings)
    assert value(archiving.database, 'INSERT INTO audit_logs (created_at) VALUES (now()) RETURNING "Id"') == 26


def test_a_sequence_never_goes_back(archiving, restoring):
    archiving.database.execute("CREATE TABLE audit_logs (id serial PRIMARY KEY, created_at timestamptz NOT NULL)")
    archiving.database.execute("INSERT INTO audit_logs (created_at) SELECT now() - interval '50 days'")
    archived(archiving, archiving.ledger())
    archiving.database.execute("SELECT setval('audit_logs_id_seq', 900)")
    assert account_report(restoring.restore()).warnings == ()
    assert value(archiving.database, "SELECT nextval('audit_logs_id_seq')") == 901


def test_a_sequence_that_was_left_behind_is_moved_by_the_next_restore(archiving, restoring):
    """The first one may have died between its last row and the sequence; then nothing is left to restore."""
    archiving.database.execute("CREATE TABLE audit_logs (id serial PRIMARY KEY, created_at timestamptz NOT NULL)")
    archiving.database.execute(
        "INSERT INTO audit_logs (created_at) SELECT now() - interval '50 days' FROM generate_series(1, 5)"
    )
    archived(archiving, archiving.ledger())
    restoring.restore()
    archiving.database.execute("SELECT setval('audit_logs_id_seq', 1)")
    assert restoring.restore().objects == ()
    assert value(archiving.database, "SELECT nextval('audit_logs_id_seq')") == 6


def test_a_sequence_that_may_not_be_moved_is_told(archiving, restoring, role):
    archiving.database.execute("CREATE TABLE audit_logs (id serial PRIMARY KEY, created_at timestamptz NOT NULL)")
    archiving.database.execute("INSERT INTO audit_logs (created_at) SELECT now() - interval '50 days'")
    before = archived(archiving, archiving.ledger())
    archiving.database.execute(f"GRANT SELECT, INSERT ON audit_logs TO {role}")
    report = account_report(restoring.restore(user=role))
    assert rows_of(archiving.database, "SELECT * FROM public.audit_logs") == before
    assert any("GRANT SELECT, UPDATE ON SEQUENCE" in warning for warning in report.warnings)


@pytest.mark.parametrize("data_format", ["jsonl.gz", "parquet"])
def test_generated_columns_are_computed_and_must_come_out_the_same(archiving, restoring, postgres_major, data_format):
    if postgres_major < 12:
        pytest.skip("generated columns came with PostgreSQL 12")
    archiving.database.execute(
        "CREATE TABLE audit_logs (id bigint PRIMARY KEY, created_at timestamptz NOT NULL, a numeric,"
        " twice numeric GENERATED ALWAYS AS (a * 2) STORED, words text[] GENERATED ALWAYS AS (ARRAY['x']) STORED)"
    )
    archiving.database.execute(
        "INSERT INTO audit_logs SELECT n, now() - interval '50 days', n / 3.0 FROM generate_series(1, 25) AS n"
    )
    before = archived(archiving, archiving.ledger(), format=data_format)
    account_report(restoring.restore())
    assert Counter(archiving.ledger().table_rows()) == before
    archiving.database.execute("TRUNCATE audit_logs")
    archiving.database.execute(
        "ALTER TABLE audit_logs DROP twice, ADD twice numeric GENERATED ALWAYS AS"
        " (CASE WHEN id = 7 THEN 0 ELSE a * 2 END) STORED"
    )
    [left_out] = failed(account_report(restoring.restore(ignore_watermark=True)))
    assert "generated column" in left_out.reason
    assert value(archiving.database, "SELECT count(*) FROM audit_logs") == 25 - left_out.rows


@pytest.mark.parametrize("when", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_rows_whose_parent_is_missing_leave_out_their_object(archiving, audit, restoring, old_rows, copy, when):
    archiving.database.execute("CREATE TABLE parent (id bigint PRIMARY KEY)")
    archiving.database.execute("INSERT INTO parent SELECT n FROM generate_series(1, 48) AS n WHERE n <> 7")
    archiving.database.execute(f"ALTER TABLE copy ADD FOREIGN KEY (id) REFERENCES parent {when}")
    report = into(restoring, copy)
    [left_out] = failed(report)
    assert left_out.data_key == key_of_row(audit, 7)
    assert "foreign key" in left_out.reason
    assert "restore the rows that it refers to first" in left_out.reason
    assert value(archiving.database, "SELECT count(*) FROM copy") == OLD_ROWS - left_out.rows
    archiving.database.execute("INSERT INTO parent VALUES (7)")
    assert into(restoring, copy).restored_rows == left_out.rows
    assert rows_of(archiving.database, "SELECT * FROM public.copy") == old_rows


@pytest.mark.parametrize("conflict", [ConflictStrategy.skip, ConflictStrategy.overwrite])
def test_a_partitioned_target(archiving, audit, restoring, old_rows, conflict):
    """Every row finds its partition; an object with a row that has none is left out whole."""
    archiving.database.execute("CREATE TABLE parted (LIKE audit_logs, PRIMARY KEY (id)) PARTITION BY RANGE (id)")
    archiving.database.execute("CREATE TABLE low PARTITION OF parted FOR VALUES FROM (1) TO (20)")
    archiving.database.execute("CREATE TABLE high PARTITION OF parted FOR VALUES FROM (20) TO (48)")
    report = into(restoring, restoring.name("parted"), conflict=conflict)
    [left_out] = failed(report)
    assert left_out.data_key == key_of_row(audit, 48)
    assert "no partition" in left_out.reason
    archiving.database.execute("CREATE TABLE rest PARTITION OF parted DEFAULT")
    into(restoring, restoring.name("parted"), conflict=conflict)
    assert rows_of(archiving.database, "SELECT * FROM public.parted") == old_rows
    assert value(archiving.database, "SELECT count(*) FROM low") == 19


def test_a_trigger_on_one_partition_is_found(archiving, restoring, old_rows):
    archiving.database.execute("CREATE TABLE parted (LIKE audit_logs, PRIMARY KEY (id)) PARTITION BY RANGE (id)")
    archiving.database.execute("CREATE TABLE low PARTITION OF parted FOR VALUES FROM (1) TO (20)")
    archiving.database.execute("CREATE TABLE rest PARTITION OF parted DEFAULT")
    archiving.database.execute(FUNCTION.format("meddle", CHANGING["changes a value"]))
    archiving.database.execute(
        "CREATE TRIGGER meddling BEFORE INSERT ON low FOR EACH ROW EXECUTE FUNCTION public.meddle()"
    )
    report = into(restoring, restoring.name("parted"))
    assert report.failed_rows >= 19
    assert rows_of(archiving.database, "SELECT * FROM public.parted") <= old_rows
    assert value(archiving.database, "SELECT count(*) FROM low") == 0


REFUSED = {
    "CREATE VIEW no_target AS SELECT * FROM copy": "not an ordinary table",
    "CREATE MATERIALIZED VIEW no_target AS SELECT * FROM copy": "not an ordinary table",
    "CREATE TABLE no_target (LIKE copy INCLUDING ALL);"
    " CREATE RULE away AS ON INSERT TO no_target DO INSTEAD NOTHING": "rules.*away",
    "CREATE TABLE no_target (LIKE copy INCLUDING ALL); CREATE TABLE child () INHERITS (no_target)": "inheritance",
    "SELECT": "no such table",
}


@pytest.mark.parametrize("statement", REFUSED)
def test_what_is_no_target(archiving, restoring, old_rows, copy, statement):
    archiving.database.execute(statement)
    with pytest.raises(PreflightError, match=REFUSED[statement]):
        into(restoring, restoring.name("no_target"))
    assert value(archiving.database, "SELECT count(*) FROM copy") == 0


@pytest.mark.parametrize("conflict", list(ConflictStrategy))
def test_missing_privileges_are_answered_with_the_grants_that_are_enough(
    archiving, restoring, old_rows, copy, role, conflict
):
    archiving.database.execute("REVOKE ALL ON SCHEMA public FROM public")
    archiving.database.execute(f"REVOKE TEMPORARY ON DATABASE {archiving.database.name} FROM public")
    with pytest.raises(PermissionDeniedError, match=f"user {role}") as refused:
        into(restoring, copy, user=role, conflict=conflict)
    assert ("UPDATE" in refused.value.hint) == (conflict in (ConflictStrategy.overwrite, ConflictStrategy.upsert))
    assert "TEMPORARY" in refused.value.hint
    assert refused.value.exit_code == 5
    archiving.database.execute(refused.value.hint)
    into(restoring, copy, user=role, conflict=conflict)
    assert rows_of(archiving.database, "SELECT * FROM public.copy") == old_rows


def test_row_level_security_that_applies_to_the_user(archiving, restoring, old_rows, copy, role):
    archiving.database.execute(f"GRANT SELECT, INSERT ON copy TO {role}")
    archiving.database.execute(
        "ALTER TABLE copy ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON copy USING (id % 2 = 0) WITH CHECK (true)"
    )
    with pytest.raises(PreflightError, match="row-level security"):
        into(restoring, copy, user=role)
    into(restoring, copy)
    assert rows_of(archiving.database, "SELECT * FROM public.copy") == old_rows


def test_a_database_that_is_not_there(restoring, archiving, old_rows):
    with pytest.raises(SourceError, match="does not exist"):
        restoring.restore(database=replace(archiving.database, name="no_such_database"))
