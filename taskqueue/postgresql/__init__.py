"""PostgreSQL (alone imports psycopg): sessions, and patience with statements that are never answered."""
