#!/bin/sh
# Outcome `exited`, exit_code 3, success false.
echo "I looked for my input in $GVA_DATA."
echo "02-bad.sh: no input, giving up" >&2
exit 3
