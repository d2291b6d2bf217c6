#!/bin/sh
# A file that is meant for the outside goes to $GVA_OUTPUT, the output image. $TMPDIR is removed when the script ends.
set -eu
date -u '+Made in the guest at %Y-%m-%d %H:%M:%S UTC.' >"$TMPDIR/draft"
mv "$TMPDIR/draft" "$GVA_OUTPUT/hello.txt"
echo "left hello.txt on the output image"
