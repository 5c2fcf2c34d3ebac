"""From a connected socket to an open channel: how often a fresh process waits for the host on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from pvblob.vmbus.bus import Bus, connect
from pvblob.vsc.device import LENT_BYTES_MAX
from pvblob.vsc.handshake import Handshake, wait_for_steps


class Heard(Bus):
    """A bus that notes in which order messages went and came."""

    __slots__ = ("order",)

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus._socket)
        self.order = ""

    def send(self, datagram: bytes, descriptors: Sequence[int] = ()) -> None:
        super().send(datagram, descriptors)
        self.order += ">"

    def receive(self) -> tuple[bytes, list[int]] | None:
        came = super().receive()
        self.order += "<" if came is not None else ""
        return came


def test_a_channel_with_memory_takes_four_trips_to_the_host(live_host: Any) -> None:
    """The version; offers and the rings' memory; the GPADL, which names the offer; the channel and the first region."""
    bus = Heard(connect(live_host.socket_path))
    handshake = Handshake(bus)
    steps = handshake.open_channel(os.urandom(16), LENT_BYTES_MAX)
    link = wait_for_steps(handshake, steps, time.monotonic() + 30)
    assert bus.order == "> << >> <<< >>> < >> <<<".replace(" ", "")
    assert bus.order.count("<>") + 1 == 4
    assert link.memory.usage()[0] == 1, "and the first request finds pages"
    link.close()
