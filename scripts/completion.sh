#!/bin/sh
# Prints what completes the command in a shell, for the packages to install: completion.sh SHELL [PYTHON]
set -eu
# click's function for zsh only registers itself when it is called for the second time, and completes nothing then.
_TASKQUEUE_COMPLETE="$1_source" "${2:-python3}" -m taskqueue | sed 's/== loadautofunc \]\]/== (loadautofunc|shfunc) ]]/'
