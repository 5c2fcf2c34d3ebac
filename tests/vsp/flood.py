"""A guest that keeps a thousand requests in flight, as fast as the ring takes them; run as a process of its own.

`python flood.py SOCKET METHOD TARGET IN_FLIGHT DATA_BYTES`: each line on standard input starts or stops it; after each
it answers with one line, when the flood flows or when its last completion has come. PUT uploads so many bytes.
"""

from __future__ import annotations

import os
import select
import sys
from collections import deque

from pvblob.vsc.device import Completion, Device

HOST = "devstoreaccount1.blob.core.windows.net"


def flood(socket_path: str, method: str, target: str, in_flight: int, data_bytes: int) -> None:
    device = Device.open(socket_path)
    envelope = device.allocate(8192)
    is_upload = method == "PUT"
    fields = [("x-ms-blob-type", "BlockBlob"), ("content-length", str(data_bytes))] if is_upload else []
    length = envelope.write_request(method, "https", HOST, target, fields, 4096)
    request = envelope.slice(0, length)
    response = [device.allocate(4096) for _ in range(in_flight)]
    # The same bytes of every request and the same room for every answer: nobody looks at them.
    data = device.allocate(data_bytes) if data_bytes else None
    waiting: deque[tuple[Completion, int]] = deque()
    data_valid = data_bytes if is_upload else 0
    free = list(range(in_flight))
    flowing = announced = False
    done = 0
    while True:
        idle = not waiting and not flowing
        if select.select([sys.stdin], [], [], None if idle else 0)[0]:
            if not os.read(0, 100):
                return
            flowing, announced, done = not flowing, False, 0
        while flowing and free:
            slot = free.pop()
            sent = device.submit(request, response[slot], data, data_valid=data_valid, guid=os.urandom(16))
            waiting.append((sent, slot))
        if waiting:
            completion, slot = waiting.popleft()
            status, _ = completion.wait()
            assert status == 0, hex(status)
            free.append(slot)
            done += 1
        if not announced and (done > in_flight if flowing else not waiting):
            announced = True
            sys.stdout.write("flows\n" if flowing else "silent\n")
            sys.stdout.flush()


if __name__ == "__main__":
    flood(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]))
