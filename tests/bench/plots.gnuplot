# The README's plots, of figures.csv: gnuplot plots.gnuplot, in its directory.
set datafile separator ","
set terminal svg size 760,340 font "sans-serif,13" background "white"
set border 3 linecolor "#888888"
set tics nomirror textcolor "#222222"
set key textcolor "#222222"

set output "burst.svg"
set title "Callers at once: seconds until the last one has its answer"
set logscale xy
set xtics (1, 10, 50, 200, 1000)
set xlabel "callers"
set grid ytics linecolor "#dddddd"
set key top left
burst(whom) = sprintf("< sed -n 's/^\\([0-9]*\\) at once: time to the last,%s,/\\1,/p' figures.csv", whom)
plot burst("hook") using 1:3 with linespoints linewidth 2 pointtype 7 linecolor "#1793d1" title "hook", \
    burst("webhook") using 1:3 with linespoints linewidth 2 pointtype 5 linecolor "#999999" title "webhook, no throttle"

set output "time.svg"
set title "A call that restarts a unit that does nothing: where its time goes (ms)"
unset logscale
set xtics auto
set xrange [0:*]
set yrange [*:*] reverse
set xlabel "ms"
unset key
set grid xtics linecolor "#dddddd"
set style fill solid
end = 0.0
plot "< grep ^part, figures.csv | grep -v ,whole," \
    using (start = end, end = end + $4, (start + end) / 2):0:(start):(end):($0 - 0.35):($0 + 0.35):ytic(2) \
    with boxxyerror linecolor "#1793d1"
