"""What is wrong with this host and its broker, or will be, and what to do.

examination.py collects the facts. Each area has a module that judges them, without I/O.
"""
