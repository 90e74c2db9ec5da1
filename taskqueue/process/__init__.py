"""What long-lived processes share: daemonising, signals, logging, fork and reap, the supervisor loop."""
