"""Feeding jobs from a resumable iterator to workers, in constant memory."""
