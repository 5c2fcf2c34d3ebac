"""Doors for programs that already speak something else: azure-core, fsspec. Each module needs only its own library."""
