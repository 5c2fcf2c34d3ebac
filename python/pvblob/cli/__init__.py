"""The command line: `pvblob serve | demo | put | get | cp | ls | stat | rm | bench`, one module per command.

`app` finds the command and imports only its module; `options`, `locator`, `output` are what commands share; `fleet` is
the harness of `demo` and `bench`. Commands hold no logic of blobs or channels: they call `pvblob.Client` or the host.
"""
