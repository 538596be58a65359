"""Packets of a video stream into frames, such that each frame is the same from wherever decoding begins."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mvtrack.video.probe import VideoProbe, open_container, video_stream

if TYPE_CHECKING:
    import av

# what containers tell decoders
_PARAMETERS = (
    "extradata", "codec_tag", "width", "height", "pix_fmt", "bits_per_coded_sample", "color_primaries", "color_range",
    "color_trc", "colorspace",
)  # fmt: skip
_INTRA = {"mjpeg", "ffv1", "png", "prores", "dnxhd"}  # keyframes that are displayed in the order of decoding


class SeekError(Exception):
    """Seeking leads to other packets than reading from the front."""


class Stream:
    """A container and its video stream, with a new decoder at every keyframe from which decoding can begin.

    What a decoder keeps of earlier pictures (tables, references, what conceals errors) never shows, so damaged frames
    too are the same whichever way they are reached. Pictures that come after a keyframe and are displayed before it
    still belong to the decoder before. may_be_damaged: no threads of one decoder meet in a picture; frame threads lose
    frames ahead of a broken one, slice threads race where a broken slice reaches into another's rows.
    """

    def __init__(self, probe: VideoProbe, may_be_damaged: bool) -> None:
        self._probe, self._may_be_damaged = probe, may_be_damaged
        self.container = open_container(probe.path)
        self.stream = video_stream(self.container, probe.path)
        self._restarts = None if probe.pts is None else set(probe.pts[probe.keyframes].tolist())
        self._decoder = self._following = None
        self._key_pts, self._held = 0, []
        self._sought = False

    def seek(self, pts: int) -> None:
        """To the keyframe at or before a time stamp."""
        self.container.seek(pts, stream=self.stream, backward=True)
        self._sought = True

    def packets(self) -> Iterator["av.Packet"]:
        """In the order of decoding; the last one is empty. Raises SeekError."""
        sizes = self._probe.packet_sizes
        for packet in self.container.demux(self.stream):
            if self._sought and packet.size and sizes.get(packet.pts) != packet.size:
                raise SeekError
            yield packet

    def decode(self, packet: "av.Packet | None") -> list["av.VideoFrame"]:
        """Frames that come out when a packet (None: the end) goes in."""
        if not packet or not packet.size:
            return [*self._switch(), *self._decoder.decode(None)] if self._decoder else []
        frames = []
        if self._following and packet.pts is not None and packet.pts > self._key_pts:
            frames += self._switch()
        if self._can_restart(packet):
            frames += self._switch()
            self._following, self._key_pts, self._held = self._new_decoder(), packet.pts, []
        if self._following is None:
            self._decoder = self._decoder or self._new_decoder()
            return frames + self._decoder.decode(packet)
        self._held += self._following.decode(packet)
        if self._decoder is None or self._probe.is_closed or self._restarts is None:
            return frames + self._switch()
        return frames + [frame for frame in self._decoder.decode(packet) if self._leads(frame)]

    def _can_restart(self, packet: "av.Packet") -> bool:
        if self._restarts is None:
            return self._probe.codec in _INTRA and packet.is_keyframe
        return packet.pts in self._restarts

    def _leads(self, frame: "av.VideoFrame") -> bool:
        """Whether a frame is displayed before the keyframe."""
        return self._restarts is None or frame.pts is not None and frame.pts < self._key_pts

    def _switch(self) -> list["av.VideoFrame"]:
        """Go on with the decoder that began at the keyframe, if one did; what both have held back."""
        if self._following is None:
            return []
        frames = [frame for frame in self._decoder.decode(None) if self._leads(frame)] if self._decoder else []
        is_first = self._decoder is None
        frames += [frame for frame in self._held if is_first or not self._leads(frame) or self._restarts is None]
        self._decoder, self._following, self._held = self._following, None, []
        return frames

    def _new_decoder(self) -> "av.VideoCodecContext":
        import av

        context = av.CodecContext.create(self._probe.decoder, "r")
        for name in _PARAMETERS:
            value = getattr(self.stream.codec_context, name)
            if value is not None:
                setattr(context, name, value)
        context.thread_type = "SLICE" if self._may_be_damaged else "AUTO"
        context.thread_count = 1 if self._may_be_damaged and self._probe.codec not in _INTRA else 0
        return context
