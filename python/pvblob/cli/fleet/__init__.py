"""The harness of `pvblob demo` and `pvblob bench`: many client processes, several ways to the same bytes, one clock.

`venue` starts the servers (`servers`) and has the seeded blobs written (`corpus`, `fill`); `paths` says what there is
to compare; `contestants` starts one `crew` for each path, which forks the clients (`member`) that do the requests
(`workers`); `rounds` has them measured in turn. `contest` is the demo's, `report` its table.

What makes it fair: processes are started once and serve every round, each path with processes of its own, so that no
library's memory or settings reach another; before each timed section every client has read through that very connection
into memory it has touched; counters are read before the start is released; the clock runs from the start line to the
last byte of the slowest client; places are drawn from the same seeds for every path; bytes are compared with the
checksums of what was generated, outside the clock.
"""
