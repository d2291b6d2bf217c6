#!/bin/sh
# Second step: reads what 10-make-numbers.sh left. Were that missing, `set -e` would end this step with a failure,
# and 30-add.sh would run all the same: gvad never skips a script because another one failed.
set -eu
awk '{ print $1 * $1 }' "$GVA_OUTPUT/steps/numbers" >"$GVA_OUTPUT/steps/squares"
echo "squared them"
