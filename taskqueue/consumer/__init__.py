"""The process that holds a group's connections: it receives workitems, assigns them and settles them."""
