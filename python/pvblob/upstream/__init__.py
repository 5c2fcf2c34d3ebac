"""A blob service elsewhere as a backend: real Azure, or any server that speaks its REST API.

The flow: `router` (whose account?) → `azure` (one account: rewrite, authorize, send, retry) → `transport` → the data
plane. Contents come back as bytes or as `downloads.RemoteContent`, bodies go out of the buffers they lie in.
It knows no channel: buffers are handed through.
"""
