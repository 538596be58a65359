"""Colours as a BT.709 screen shows them: HLG and PQ are tone-mapped, wide primaries are brought into BT.709's."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8, UInt16

_HLG, _PQ = 18, 16  # H.273 transfer characteristics
_WHITE_NITS = 203.0  # of diffuse white in HDR, BT.2408: what SDR shows as its white
_PEAK_NITS = 1000.0  # of the screen that HLG is displayed on, and beyond which PQ is clipped
_KNEE = 0.8  # of SDR white: up to here light is kept as it is, above it rolls off towards the peak
_LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
# chromaticities (x, y) of red, green and blue; white is D65
_PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_PRIMARY_NAMES = {9: "BT.2020", 12: "Display P3"}
_UNSTATED = (0, 2)


@dataclass(frozen=True)
class ColorSpace:
    """H.273 codes of transfer function, primaries and matrix; is_full: values use the whole range."""

    transfer: int = 2
    primaries: int = 2
    matrix: int = 2
    is_full: bool = False

    @classmethod
    def of(cls, source) -> "ColorSpace":
        """Of PyAV's frame or codec context."""
        values = (source.color_trc, source.color_primaries, source.colorspace)
        return cls(*(int(value or 0) for value in values), is_full=int(source.color_range or 0) == 2)

    @property
    def is_hdr(self) -> bool:
        return self.transfer in (_HLG, _PQ)

    @property
    def is_ordinary(self) -> bool:
        """Whether a decoder's 8-bit RGB is what a BT.709 screen shows."""
        return not self.is_hdr and self.primaries not in _PRIMARY_NAMES

    def notes(self, size: tuple[int, int]) -> list[str]:
        """What is done to the colours of a video of this (H, W), in words."""
        if self.is_hdr:
            return [f"{'HLG' if self.transfer == _HLG else 'PQ'} is tone-mapped to BT.709"]
        if self.primaries in _PRIMARY_NAMES:
            return [f"colours are brought from {_PRIMARY_NAMES[self.primaries]} to BT.709"]
        if self.matrix in _UNSTATED and (size[0] >= 720 or size[1] >= 1280):
            return ["the file does not say its colour matrix: read as BT.601, as ffmpeg does"]
        return []

    def to_bt709(self, picture: UInt16[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """16-bit R'G'B' of this space as 8-bit R'G'B' of BT.709."""
        light = np.take(_linear_of_code(self.transfer), picture)
        if self.transfer == _HLG:  # the screen's own gamma of 1.2, on luminance (BT.2100)
            luminance = light @ _LUMINANCE_2020
            light *= (_PEAK_NITS / _WHITE_NITS * np.maximum(luminance, 1e-6) ** 0.2)[..., None]
        if self.is_hdr:
            light = _tone_mapped(light)
        source = 9 if self.is_hdr and self.primaries in _UNSTATED else self.primaries
        light = light @ _to_709(source).T if source in _PRIMARY_NAMES else light
        light = np.clip(light, 0, 1)
        code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)  # sRGB
        return (code * 255 + 0.5).astype(np.uint8)


@lru_cache(maxsize=4)
def _linear_of_code(transfer: int) -> Float[np.ndarray, "65536"]:
    """Light of a 16-bit code value: scene light (HLG), over SDR white (PQ), or of an SDR screen."""
    code = np.arange(65536) / 65535
    if transfer == _HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    elif transfer == _PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = code ** (1 / m2)
        light = 10000 / _WHITE_NITS * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    else:
        light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


def _tone_mapped(light: Float[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """Light over SDR white into [0, 1], by the brightest channel so that hues stay: the peak becomes 1, and up to the
    knee nothing changes."""
    brightest = light.max(-1, keepdims=True)
    peak = (_PEAK_NITS / _WHITE_NITS - _KNEE) / (1 - _KNEE)
    above = np.clip((brightest - _KNEE) / (1 - _KNEE), 0, peak)
    rolled = _KNEE + (1 - _KNEE) * above * (1 + above / peak**2) / (1 + above)
    return light * np.where(brightest > _KNEE, rolled / np.maximum(brightest, 1e-6), 1)


@lru_cache(maxsize=4)
def _to_709(primaries: int) -> Float[np.ndarray, "3 3"]:
    return (np.linalg.inv(_rgb_to_xyz(1)) @ _rgb_to_xyz(primaries)).astype(np.float32)


def _rgb_to_xyz(primaries: int) -> Float[np.ndarray, "3 3"]:
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in _PRIMARIES[primaries]]).T
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    return columns * np.linalg.solve(columns, white)
