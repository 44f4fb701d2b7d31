"""Real PostgreSQL and S3 servers on loopback, without containers, for the demo and the tests."""
