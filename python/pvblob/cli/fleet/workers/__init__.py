"""The clients that are measured, a module for each library, so that a crew imports nothing but what it measures.

`contract` says what a worker is; `pvblob.cli.fleet.paths` says which worker over which server is which path.
"""
