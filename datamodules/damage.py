"""Damage of video files: what shows, while packets and frames go by, that parts are missing or wrong. Free of torch.

One rule for all containers. A video is damaged where

* the decoder refuses a packet, or returns a frame that it marks as corrupt;
* the file cannot be read on, or breaks off within a packet;
* time stamps leave a gap of several frames, in a film whose steps are else regular;
* it ends several frames before its header says.

Variable frame rates, edit lists and files put together are no damage. A header that claims more frames than the file has
bytes for is not believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import av
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

MISSING = 3.5  # usual steps that a gap, or a missing end, is longer than
IRREGULAR = 0.01  # of all steps, or one, may be other than the usual one, within SLACK, in a film of constant rate
SLACK, ROUNDING = 0.25, 0.002  # of a step; seconds, by which containers round times
RESTART = 10.0  # seconds; FFmpeg takes a longer jump for another clock in formats that are made to be put together
LEAST_BYTES = 8  # of a frame in a file; less than any codec and container take
FALLBACK_RATE = 25  # frames per second, where a file has neither times nor a rate; FFmpeg's own assumption


class DamageError(Exception):
    """A video is damaged; the message says how and where."""


class DamageWatch:
    """Decodes a video stream and watches for damage.

    Args:
        container: of the stream, not read yet.
        stream: to be decoded.
        size: of the file, bytes.
        keep: go on at damage, and tell ``found``.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, size: int, keep: bool) -> None:
        self.container, self.stream, self.size, self.keep = container, stream, size, keep
        self._found: dict[str, tuple[str, int]] = {}
        self._steps = Counter[int]()  # milliseconds between two packets, in the order of decoding
        self._begin: float | None = None  # seconds, of the first packet
        self._last: tuple[float, float] | None = None  # seconds, begin and end of the last packet
        self._gap = 0.0, 0.0  # seconds, length and begin of the longest one
        self._ends: dict[int, float] = {}  # seconds, of each stream by its index
        self._restarted, self._cut = False, False

    @property
    def found(self) -> str:
        """What is damaged, in words; empty while nothing is."""
        return "; ".join(text + (f", and {more} more" if more else "") for text, more in self._found.values())

    def frames(self) -> Iterator[VideoFrame]:
        """Decode every frame in display order.

        Raises:
            DamageError: the video is damaged and is not to be kept.
        """
        number = 0
        for packet in self._packets():
            if packet.stream.index != self.stream.index:
                continue
            try:
                frames = packet.decode()
            except EOFError:  # of a decoder that was told the end already
                frames = []
            except av.FFmpegError as error:
                self._tell("refused", f"frame {number} does not decode ({error.strerror or error})")
                frames = []
            for frame in frames:
                if frame.is_corrupt:
                    self._tell("corrupt", f"frame {number} is damaged")
                yield frame
                number += 1
        self._judge()

    def _packets(self) -> Iterator[Packet]:
        """All streams' packets, for the end of the file is that of the last of them."""
        packets = self.container.demux()
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                self._tell("unreadable", f"the file cannot be read on ({error.strerror or error})")
                return
            self._see(packet)
            yield packet

    def _see(self, packet: Packet) -> None:
        shown, index = packet.dts if packet.pts is None else packet.pts, packet.stream.index
        if shown is None:  # what ends a stream's packets
            return
        unit = float(packet.time_base)
        length = unit * (packet.duration or 0)
        self._ends[index] = max(self._ends.get(index, 0.0), unit * shown + length)
        if index != self.stream.index:
            return
        self._cut = packet.is_corrupt
        if packet.dts is None:  # of the first frames in containers that have no such times
            return
        now = unit * packet.dts
        self._begin = now if self._begin is None else self._begin
        if self._last is not None:
            step, gap = now - self._last[0], now - self._last[1]
            if step < 0 or (step > RESTART and self.container.format.flags & Flags.ts_discont.value):
                self._restarted = True
            elif step > 0:
                self._steps[round(1000 * step)] += 1
                self._gap = max(self._gap, (gap, self._last[1] - self._begin))
        self._last = now, now + length

    def _judge(self) -> None:
        """Look at the times and the end, once all packets were seen."""
        usual, (gap, where) = self._usual_step(), self._gap
        others = sum(count for step, count in self._steps.items() if abs(step / 1000 - usual) > SLACK * usual + ROUNDING)
        if gap > MISSING * usual and others <= max(1, IRREGULAR * self._steps.total()):
            self._tell("gap", f"{gap:.1f} s are missing after {where:.1f} s")
        if self._cut:
            self._tell("cut", "the file breaks off within a frame")
        claimed, lasted = self._claim()
        longest = max(self._steps, default=0) / 1000
        if claimed - lasted > max(MISSING * usual, 1.5 * longest) and not self._restarted:
            self._tell("end", f"it ends after {lasted:.1f} s of the {claimed:.1f} s that its header says")

    def _usual_step(self) -> float:
        """The median step, in seconds."""
        half, seen = self._steps.total() / 2, 0
        for step in sorted(self._steps):
            seen += self._steps[step]
            if seen >= half:
                return step / 1000
        return 1 / self._rate()

    def _rate(self) -> float:
        return float(self.stream.guessed_rate or self.stream.average_rate or FALLBACK_RATE)

    def _claim(self) -> tuple[float, float]:
        """Seconds that the video lasts by its header, and that it lasted; both 0 where the header does not say so."""
        stream, unit, all_begin = self.stream, self.stream.time_base, self.container.start_time
        if stream.start_time is None or unit is None or self._begin is None:  # without times, durations are guesses
            return 0.0, 0.0
        lasted = self._ends[stream.index] - float(stream.start_time * unit)
        if self.container.format.name == "avi" and stream.average_rate:  # whose duration FFmpeg cuts down with the file
            claimed = float(stream.frames / stream.average_rate)
        elif stream.duration is not None:
            claimed = float(stream.duration * unit)
        else:
            claimed = (self.container.duration or 0) / av.time_base
            lasted = max(self._ends.values()) - (all_begin or 0) / av.time_base
        return (claimed, lasted) if claimed * self._rate() * LEAST_BYTES <= self.size else (0.0, 0.0)

    def _tell(self, kind: str, text: str) -> None:
        if not self.keep:
            raise DamageError(text)
        first, more = self._found.get(kind, (text, -1))
        self._found[kind] = first, more + 1
