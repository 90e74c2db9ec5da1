"""The keeper: it keeps the claims on keys of unique work. One is active, the others stand by."""
