"""The record in a PostgreSQL database: writing and reading it."""
