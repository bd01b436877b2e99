"""Bad weather on one cable: frames from one network device to another, some lost, all late, never faster than a rate.

    python wire.py ONE OTHER --loss 0.3 --delay 1.0 --rate 250000 --seed 7

What `tc netem` does, for kernels that come without it. Frames keep their virtio header, so that checksums and segments
that the sender's kernel left to "the hardware" stay right. Prints `ready`, then pumps until it is ended.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import selectors
import socket
import time
from dataclasses import dataclass, field

ETH_P_ALL = 3
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
LARGEST = 10 + 14 + 65536
MOST_WAITING = 4000


@dataclass
class Weather:
    """What one direction does to frames. `delay_s` is one way; `rate` in bytes per second, 0 for no limit."""

    loss: float
    delay_s: float
    rate: float
    random: random.Random
    free_at: float = 0.0

    def arrival(self, now: float, size: int) -> float | None:
        """When a frame comes out at the other end; None when it is lost."""
        if self.random.random() < self.loss:
            return None
        begin = max(now, self.free_at)
        self.free_at = begin + (size / self.rate if self.rate else 0.0)
        return self.free_at + self.delay_s


@dataclass
class Wire:
    """Two packet sockets and the frames under way between them."""

    sockets: tuple[socket.socket, socket.socket]
    weather: tuple[Weather, Weather]
    under_way: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    number: itertools.count[int] = field(default_factory=itertools.count)

    def take(self, side: int) -> None:
        """Read what came in at one side."""
        while True:
            try:
                frame = self.sockets[side].recv(LARGEST)
            except (BlockingIOError, OSError):
                return
            at = self.weather[side].arrival(time.monotonic(), len(frame))
            if at is not None and len(self.under_way) < MOST_WAITING:
                heapq.heappush(self.under_way, (at, next(self.number), 1 - side, frame))

    def deliver(self) -> float | None:
        """Send what is due; returns the seconds until the next frame is."""
        while self.under_way:
            wait_s = self.under_way[0][0] - time.monotonic()
            if wait_s > 0:
                return wait_s
            *_, side, frame = heapq.heappop(self.under_way)
            try:
                self.sockets[side].send(frame)
            except OSError:
                continue  # a device that is down loses frames, as any does
        return None


def device(name: str) -> socket.socket:
    """A packet socket that reads what arrives at a device, and writes to it."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    packets.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    packets.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    packets.bind((name, 0))
    packets.setblocking(False)
    return packets


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("devices", nargs=2)
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    one, other = (
        Weather(told.loss, told.delay, told.rate, random.Random(told.seed + side)) for side in range(2)
    )
    wire = Wire((device(told.devices[0]), device(told.devices[1])), (one, other))
    selector = selectors.DefaultSelector()
    for side, packets in enumerate(wire.sockets):
        selector.register(packets, selectors.EVENT_READ, side)
    print("ready", flush=True)
    while True:
        for key, _ in selector.select(wire.deliver()):
            wire.take(key.data)


if __name__ == "__main__":
    main()
