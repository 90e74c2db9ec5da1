"""The worker pool: a supervisor, a consumer for each group, and the workers."""
