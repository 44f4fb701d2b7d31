"""Tests with a real pg_repack. `make test-repack` runs them; they need Debian's packages, so `make test` does not."""
