"""The screens of `taskqueue top`."""
