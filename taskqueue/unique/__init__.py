"""Unique work: the claims on keys, and the messages about them. Nothing here speaks with the broker."""
