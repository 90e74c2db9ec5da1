"""Parts of every long-lived process: daemonising, signals, logging, fork and reap, the supervisor loop."""
