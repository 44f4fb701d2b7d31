"""Rows to object bytes and back; documents to JSON and back. Inverse pairs stand side by side."""
