"""The gate: grants permits to run limited workitems. One leads, the others stand by."""
