"""The harness of `pvblob demo` and `pvblob bench`: many client processes, several ways to the same bytes, one clock.

`contest` runs it all: `servers` starts the host (and nginx), `corpus` writes seeded blobs, `crew` forks the clients and
holds the start line, `readers` are the ways to read, `report` turns measurements into a table and JSON.

What makes it fair: processes are started once and serve every round; before each timed section every client has read
through that very connection into memory it has touched; counters are read before the start is released; the clock runs
from the start line to the last byte of the slowest client; every path reads the same ranges in the same order; each
path's bytes are compared with the checksums of what was generated in an untimed pass over the same ranges.
"""
