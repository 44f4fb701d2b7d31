import pytest
from psycopg import sql
from archiver_pipeline.config.enums import VacuumStrategy
from archiver_pipeline_tests.plugins.archiving import create_audit_table

@pytest.fixture
def role(database):
    name = "archiver_" + database.name
    with database.connect() as c:
        c.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(database.password)))
        c.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC; GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(*map(sql.Identifier,[database.name, database.name, name])))
        c.execute(sql.SQL("GRANT SELECT, DELETE ON audit_logs TO {}").format(sql.Identifier(name)))
    yield name
    with database.connect() as c:
        c.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))

def test_plain(archiving, audit, role, database):
    before = database.execute("SELECT relpages FROM pg_class WHERE relname='audit_logs'")
    r = archiving.archive(user=role, vacuum_strategy=VacuumStrategy.FULL)
    print("VAC", r.vacuum, r.table_bytes_before, r.table_bytes_after, r.rows)
    print(database.execute("select last_vacuum, vacuum_count from pg_stat_user_tables"))
    audit.account_all_archived()

def test_locked(archiving, audit, role, database):
    with database.connect(autocommit=False) as c:
        c.execute("SELECT 1 FROM audit_logs WHERE id=5 FOR UPDATE")
        r = archiving.archive(user=role)
        print(r)

def test_changed(archiving, audit, role, database, monkeypatch):
    from archiver_pipeline_tests.engine.running import verified
    from archiver_pipeline.engine.delete import delete_batches
    s = archiving.session(user=role)
    v = verified(archiving, s)
    database.execute("UPDATE audit_logs SET actor='x' WHERE id=5")
    print(delete_batches(s, v).batches)

def test_fk(archiving, audit, database):
    database.execute("CREATE TABLE child (p bigint REFERENCES audit_logs)")
    database.execute("INSERT INTO child VALUES (5)")
    try:
        archiving.archive()
    except Exception as e: print("FK1", type(e), e)
    try:
        archiving.archive()
    except Exception as e: print("FK2", type(e), e)
    print([o.stem for o in audit.objects() if o.manifest and not o.receipt and not o.superseded])
    print(len(audit.receipted()), len(audit.objects()))

def test_nopriv(archiving, audit, role, database):
    database.execute(f"REVOKE DELETE ON audit_logs FROM {role}")
    database.execute(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM {role}")
    try:
        archiving.archive(user=role)
    except Exception as e: print("NP", type(e), e)

def test_held(archiving, audit):
    s = archiving.session(); s.lock
    try: archiving.archive()
    except Exception as e: print("LOCK", e)
