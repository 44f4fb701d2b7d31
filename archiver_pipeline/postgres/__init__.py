"""The only home of psycopg and ADBC: everything that is said to PostgreSQL is said here."""
