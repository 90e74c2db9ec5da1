"""Commands of administrators to the pools of all hosts."""
