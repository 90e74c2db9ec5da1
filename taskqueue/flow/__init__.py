"""The flow process: it keeps workflows in a database, publishes their steps and takes their receipts."""
