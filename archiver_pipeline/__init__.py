"""Moves old rows of PostgreSQL audit tables to S3-compatible storage and deletes exactly the rows it proved."""
