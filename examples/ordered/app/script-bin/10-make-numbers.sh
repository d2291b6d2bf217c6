#!/bin/sh
# First step: the numbers that the next two work on.
set -eu
mkdir -p "$GVA_OUTPUT/steps"
seq 1 10 >"$GVA_OUTPUT/steps/numbers"
echo "made $(wc -l <"$GVA_OUTPUT/steps/numbers") numbers"
