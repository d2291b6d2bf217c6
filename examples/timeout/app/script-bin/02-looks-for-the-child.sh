#!/bin/sh
# Runs after the first was ended, and checks that its child was ended too.
set -eu
child=$(cat "$GVA_OUTPUT/child.pid")
if kill -0 "$child" 2>/dev/null; then
    echo "child $child is still running" >&2
    exit 1
fi
echo "child $child is gone"
