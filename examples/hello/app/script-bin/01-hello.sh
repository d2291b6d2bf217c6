#!/bin/sh
# The smallest job: print something. gvad keeps stdout and stderr, apart, beside the result.
echo "Hello from $(basename "$0"), running as $(id -un) on Linux $(uname -r)."
echo "This line went to stderr." >&2
