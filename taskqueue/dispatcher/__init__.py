"""The daemon that routes from `taskqueue` to `worker_<type>`."""
