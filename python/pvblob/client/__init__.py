"""What programs hold: `Client`, `AsyncClient` and the values they return; import those from `pvblob`.

A call becomes a REST request (`operations`), travels through an `exchange`, and its answer becomes a value or an error
(`answers`). `operations`, `answers` and `bodies` never wait and never touch a socket, so both clients share them.
"""
