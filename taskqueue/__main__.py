"""`python -m taskqueue` is the command `taskqueue`."""

from taskqueue.cli import main

main()
