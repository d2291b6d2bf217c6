# From lines of station,time,value: one line a station, in the order in which they first appear.
BEGIN { FS = OFS = "," }
NR == 1 { next } # the heading
!($1 in count) { order[++stations] = $1; low[$1] = high[$1] = $3 }
{
    count[$1]++
    sum[$1] += $3
    if ($3 + 0 < low[$1] + 0) low[$1] = $3
    if ($3 + 0 > high[$1] + 0) high[$1] = $3
}
END {
    print "station", "count", "lowest", "highest", "mean"
    for (i = 1; i <= stations; i++) {
        s = order[i]
        print s, count[s], low[s], high[s], sprintf("%." decimals "f", sum[s] / count[s])
    }
}
