#!/bin/sh
# Prints what completes the command in a shell, for the packages to install: completion.sh SHELL [PYTHON]
set -eu
script=$(_TASKQUEUE_COMPLETE="$1_source" "${2:-python3}" -m taskqueue)
case $1 in
# zsh loads the script when it completes the command for the first time. click's function has to be called then; that of
# click before 8.1.4 only registers itself, and so does that of later versions when it is called for the second time.
zsh) printf '%s\n' "$script" | sed -e '/^compdef /d' -e '/^if \[\[ \$zsh_eval_context/,$d' && echo '_taskqueue_completion "$@"' ;;
*) printf '%s\n' "$script" ;;
esac
