"""What travels: workitems, results, JSON-RPC, and the headers that say more of them."""
