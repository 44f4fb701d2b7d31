"""Table locks outside PostgreSQL: Redis and file. The home of the Redis driver."""
