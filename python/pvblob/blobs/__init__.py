"""The embedded blob service: a catalog in SQLite, bytes in segment files, answers in Azure Blob REST terms.

`service.EmbeddedService` is the only door. It knows `pvblob.http` and `pvblob.errors`, and nothing of channels, rings
or sockets.
"""
