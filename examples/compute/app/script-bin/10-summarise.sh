#!/bin/sh
# Reads every measurement on the data image, writes one summary to the output image.
# The working directory is the application image, so the job's own files are found by a relative path.
set -eu
mkdir -p "$GVA_OUTPUT/summary"
for table in "$GVA_DATA"/*.csv; do
    name=$(basename "$table" .csv)
    # Under another name first: whoever reads the output image never takes half a file for a whole one.
    awk -v decimals="$DECIMALS" -f lib/summary.awk "$table" >"$GVA_OUTPUT/summary/.$name.tmp"
    mv "$GVA_OUTPUT/summary/.$name.tmp" "$GVA_OUTPUT/summary/$name.csv"
    echo "$name: $(($(wc -l <"$table") - 1)) measurements -> summary/$name.csv"
    cat "$GVA_OUTPUT/summary/$name.csv"
done
