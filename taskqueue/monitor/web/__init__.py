"""The web process: the HTTP API, users and their rights, metrics."""
