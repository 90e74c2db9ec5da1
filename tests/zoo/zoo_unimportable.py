"""A plugin that cannot be imported."""

raise RuntimeError("this module is broken")
