"""The chaos suite: workitems are counted while everything that handles them is killed, cut and restarted."""
