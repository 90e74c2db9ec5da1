"""Limits over the whole cluster: definitions, keys and the state of the gate, without input or output."""
