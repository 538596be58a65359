"""An even grid of ticks over frames that may be unevenly spaced in time."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

UNEVEN = 0.25  # frame times may stray from an even grid by this share of a frame before they count as uneven
_USUAL_RATES = (23.976, 24, 25, 29.97, 30, 48, 50, 59.94, 60, 90, 100, 119.88, 120, 240)
_MOST_TICKS_A_FRAME = 200  # a file whose frames stay that long on average has broken times
DEFAULT_FPS = 24.0


@dataclass(frozen=True)
class Ticks:
    """frame_of: the coded frame that each tick of 1/fps shows."""

    fps: float
    frame_of: Int[np.ndarray, "T"]
    note: str | None = None


def even_ticks(
    times_s: Float[np.ndarray, "N"], candidates: tuple[float, ...] = (), last_s: float | None = None,
    resolution_s: float = 0.0, stray: float = UNEVEN,
) -> Ticks:  # fmt: skip
    """Lay ticks over ascending frame times. candidates: rates that the file states, the likeliest first. last_s: how
    long the last frame stays; None: as long as most. resolution_s: to which times are rounded. stray: share of a frame
    by which times may miss an even grid.

    The interval is the median of the frames', so that a pause does not halve the rate. Raises ValueError for times that
    leave a frame on screen for hundreds of ticks.
    """
    count = len(times_s)
    offset = times_s - times_s[0]
    if count == 1:
        usual = next((rate for rate in candidates if 1 <= rate <= 240), DEFAULT_FPS)
        return Ticks(usual, np.zeros(1, np.int64))
    mean = (count - 1) / offset[-1] if offset[-1] > 0 else 0.0
    for fps in (*candidates, mean):
        if 0 < fps <= 1000 and np.abs(offset - np.arange(count) / fps).max() * fps <= stray:
            return Ticks(_usual(fps), np.arange(count))
    intervals = np.diff(offset)
    stays = float(np.median(intervals)) if last_s is None else last_s
    fps = round(_median_rate(np.append(intervals, stays), candidates, resolution_s), 6)
    total = max(1, round((offset[-1] + stays) * fps))
    if total > _MOST_TICKS_A_FRAME * (count + 10):
        longest = int(intervals.argmax())
        raise ValueError(f"frame {longest} stays for {intervals[longest]:.4g} s: the times of its frames are broken")
    begins = _first_ticks(offset * fps)
    begun = np.flatnonzero(begins >= 0)
    shown = begun[np.searchsorted(begins[begun], np.arange(max(total, begins.max() + 1)), side="right") - 1]
    note = f"uneven frame times: {count} frames shown on {len(shown)} even ticks at {fps:.6g} fps"
    unseen = count - len(begun)
    note += f"; {unseen} of them are shorter than a tick and not shown" if unseen else ""
    return Ticks(fps, shown, note)


def _first_ticks(starts: Float[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
    """At which tick each frame appears, -1: at none. starts: in ticks.

    It is the first tick whose middle it is on screen in, or up to a tick later where frames shorter than a tick come
    first. Frames that would come later still are not shown, or take the place of the short one before where they are
    longer than a tick.
    """
    begins, free, before = np.full(len(starts), -1), 0, 0
    stays = np.append(np.diff(starts), np.inf)
    for frame, start in enumerate(starts.tolist()):
        tick = max(free, math.ceil(start - 0.5))
        if tick - start > 1 + 1e-3:
            if stays[frame] < 1:
                continue
            begins[before], tick = -1, free - 1
        begins[frame], free, before = tick, tick + 1, frame
    return begins


def _median_rate(intervals: Float[np.ndarray, "N"], candidates: tuple[float, ...], resolution_s: float) -> float:
    """Frames per second of the most usual interval, a stated or usual rate where one is as near as rounding allows."""
    positive = intervals[intervals > 0]
    median = np.median(positive)
    usual = positive[np.abs(positive - median) <= 0.05 * median + 1.01 * resolution_s]
    fps, rounding = 1 / usual.mean(), resolution_s / usual.sum()
    stated = [rate for rate in candidates if abs(rate / fps - 1) <= rounding]
    near = stated[:1] or [rate for rate in (*candidates, *_USUAL_RATES) if abs(rate / fps - 1) < 0.004 + rounding]
    return float(min(max(min(near, key=lambda rate: abs(rate - fps)) if near else fps, 0.01), 1000.0))


def _usual(fps: float) -> float:
    """A stated rate of 29.999 is 30: containers round times."""
    near = [rate for rate in _USUAL_RATES if abs(rate / fps - 1) < 1e-4 and float(rate).is_integer()]
    return float(near[0]) if near else float(fps)
