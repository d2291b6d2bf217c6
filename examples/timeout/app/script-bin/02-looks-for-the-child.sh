#!/bin/sh
# Runs after the first was ended, and checks that its child was ended too.
set -eu
child=$(cat "$GVA_OUTPUT/child.pid")
# The state is the word behind the name in brackets. Z has ended too, and only waits for init to take note of it.
state=$(sed 's/.*) //; s/ .*//' "/proc/$child/stat" 2>/dev/null || true)
case $state in
'' | Z | X) echo "child $child is gone" ;;
*) echo "child $child is still there, state $state" >&2 && exit 1 ;;
esac
