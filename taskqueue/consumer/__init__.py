"""The process that holds a group's connections: it takes workitems, assigns them and settles them."""
