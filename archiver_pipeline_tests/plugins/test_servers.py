"""The server fixtures give each test a place of its own."""


def test_a_database_is_empty(database):
    assert database.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_a_database_goes_away_although_a_connection_is_open(database):
    database.connect()


def test_parameters_and_autocommit(database):
    database.execute("CREATE TABLE t AS SELECT %s::int AS n", [7])
    with database.connect() as connection:
        assert connection.autocommit
        assert connection.execute("SELECT n FROM t").fetchall() == [(7,)]


def test_a_bucket_is_empty_and_lists_what_is_put(bucket):
    assert bucket.keys() == []
    bucket.client.put_object(Bucket=bucket.bucket, Key=f"{bucket.prefix}/a", Body=b"1")
    bucket.client.put_object(Bucket=bucket.bucket, Key="b", Body=b"2")
    assert bucket.keys() == ["archives/a", "b"]
    assert bucket.keys(f"{bucket.prefix}/") == ["archives/a"]
    assert bucket.read("b") == b"2"
