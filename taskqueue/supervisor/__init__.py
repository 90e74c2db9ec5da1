"""The worker pool's first process: it forks consumers and workers, and starts anew what ends."""
