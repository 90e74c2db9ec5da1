"""Measures taskqueue beside its peers and beside what pika alone can do: `make bench`."""
