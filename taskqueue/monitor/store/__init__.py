"""The record's SQLite files: writing and reading them."""
