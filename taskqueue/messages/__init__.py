"""Messages: workitems, results, JSON-RPC, and the headers that describe them."""
