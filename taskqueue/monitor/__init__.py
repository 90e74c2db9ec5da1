"""The monitor: the record of what became of each workitem, and what shows it."""
