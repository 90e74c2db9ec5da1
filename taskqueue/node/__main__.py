"""`python -m taskqueue.node` is `taskqueue work taskqueue.node`."""

import sys

from taskqueue.cli import main

sys.argv[1:] = ["work", "taskqueue.node", *sys.argv[1:]]
main()
