"""What `pvblob bench` measures, and what becomes of it.

`catalogue` says which paths take part in which scenario, in which stages; `runner` has them measured by the harness
(`pvblob.cli.fleet`), `scale` and `cold` do what is special there; `rows` condenses rounds to medians, `goals` compares
them with what is to be reached; `results`, `tables`, `plots` and `page` are JSON, terminal and docs/performance.md.
"""
