"""Workflows: their documents, and the messages about them; all functions are pure."""
