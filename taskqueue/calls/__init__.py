"""Calling functions: tasks, the workers that serve them, and the clients that call them."""
