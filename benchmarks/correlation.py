"""`python benchmarks/correlation.py`: local 4D correlation against "sample then multiply, as peers do", one thread.

The peer's way: feature maps upsampled to every level (not timed), (2 radius + 1)^2 keys per point and frame sampled by
a 5-D grid_sample, and one dot product per pair of samples. Both give the same volumes. Ratios are of processor time in
one run. Peak memory is of fresh processes, beyond inputs and maps. `--small` runs all in seconds, without targets.
`--device cuda` measures on a GPU: wall time with synchronisation, allocated memory; there are no targets for it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from bench import clock_of, peak_mib, report, timed_by_turns
from einops import rearrange
from torch import Tensor

from mvtrack.inference.machine import return_freed_memory
from tracking_head import CorrelationConfig, HeadConfig, TrackingHead, TrackLossConfig, Tracks, correlate, track_loss
from tracking_head.correlation import CorrelationFeatures, prepare
from tracking_head.correlation_reference import cells, level_map

TOKEN_PX = 16
PLAIN = CorrelationConfig(softmax="none")  # peers take no softmax


@dataclass(frozen=True)
class Sizes:
    frames: int = 21
    points: int = 256
    grid: tuple[int, int] = (30, 52)  # 120x208 cells at the finest level
    width: int = 128
    heads: int = 12  # of the full-size pass only
    rounds: int = 5
    device: str = "cpu"


SMALL = Sizes(frames=3, points=5, grid=(6, 8), width=16, heads=2, rounds=1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="tiny sizes, no targets")
    parser.add_argument("--without-full-size", action="store_true", help="leave the full-size memory out")
    parser.add_argument("--measure", choices=MEASURED, help="print one peak in MiB and stop")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    on_cpu = options.device == "cpu"
    sizes = replace(SMALL if options.small else Sizes(), device=options.device)
    if options.measure:
        sys.stdout.write(json.dumps(peak_of(options.measure, sizes)) + "\n")
        return 0
    figures = speed(sizes)
    names = [name for name in MEASURED if name != "full" or not options.without_full_size]
    fresh = on_cpu and not options.small
    peak = {name: in_fresh_process(name) if fresh else peak_of(name, sizes) for name in names}
    figures["peak MiB of one level, peer"], figures["peak MiB of one level, ours"] = peak["peer"], peak["ours"]
    if not options.small:  # ratios of what barely shows say nothing
        figures["peak of one level, ours / peer"] = peak["ours"] / peak["peer"]
        figures["peak, forward + backward of all levels, ours / peer"] = peak["ours_backward"] / peak["peer_backward"]
    targets = {
        "level 0, peer / ours": (">=", 4.0),
        "all levels, peer / ours": (">=", 2.0),
        "all levels forward + backward, peer / ours": (">=", 1.5),
        "peak of one level, ours / peer": ("<=", 1 / 3),
    }
    if "full" in peak:
        figures["full size, forward + backward of correlation and head, peak GiB"] = peak["full"] / 1024
        targets["full size, forward + backward of correlation and head, peak GiB"] = ("<=", 6.0)
    agreement = {"largest difference from the peer's volumes, millionths": ("<=", 100.0)}
    return report(figures, agreement | targets if on_cpu and not options.small else agreement)


def speed(sizes: Sizes) -> dict[str, float]:
    """Times as ratios, and how far the volumes are apart."""
    clip = Clip(sizes)
    half = Clip(sizes, replace(PLAIN, dtype="bfloat16"))
    smooth = Clip(sizes, CorrelationConfig())
    clock = time.process_time if sizes.device == "cpu" else clock_of(sizes.device)
    gap = max(float((clip.ours(s) - clip.peer(s)).abs().max()) for s in range(PLAIN.levels))
    figures = {"largest difference from the peer's volumes, millionths": 1e6 * gap}
    seconds = {"peer": [], "ours": [], "planar": []}
    for s in range(PLAIN.levels):
        ways = {
            "peer": lambda s=s: clip.peer(s),
            "ours": lambda s=s: clip.ours(s),
            "planar": lambda s=s: clip.planar(s),
        }
        for name, value in timed_by_turns(ways, sizes.rounds, clock).items():
            seconds[name].append(value)
        figures[f"level {s}, peer / ours"] = seconds["peer"][s] / seconds["ours"][s]
    total = {name: sum(values) for name, values in seconds.items()}
    figures["all levels, ours, ms"] = 1000 * total["ours"]
    figures["all levels, peer / ours"] = total["peer"] / total["ours"]
    figures["all levels, peer with 2-D sampling / ours"] = total["planar"] / total["ours"]
    levels = range(PLAIN.levels)
    passes = {
        "peer": lambda: clip.backward(clip.peer),
        "ours": lambda: clip.backward(clip.ours),
        "float32": lambda: [clip.ours(s) for s in levels],
        "bfloat16": lambda: [half.ours(s) for s in levels],
        "softmax": lambda: [smooth.ours(s) for s in levels],
    }
    taken = timed_by_turns(passes, max(1, sizes.rounds - 2), clock)
    figures["all levels forward + backward, peer / ours"] = taken["peer"] / taken["ours"]
    figures["bfloat16, float32 / bfloat16"] = taken["float32"] / taken["bfloat16"]
    figures["bfloat16, largest difference / largest volume"] = relative_gap(half, clip)
    figures["softmax over keys, with / without"] = taken["softmax"] / taken["float32"]
    return figures


def relative_gap(a: "Clip", b: "Clip") -> float:
    volume = b.ours(0)
    return float((a.ours(0) - volume).abs().max() / volume.abs().max())


class Clip:
    """Random features, queries and estimates of one clip, and both ways to correlate them."""

    def __init__(self, sizes: Sizes, config: CorrelationConfig = PLAIN) -> None:
        g = torch.Generator().manual_seed(0)
        self.config = config
        shape = (1, 1, sizes.frames, *sizes.grid, 1, sizes.width)
        self.q, self.k = (torch.randn(shape, generator=g).to(sizes.device) for _ in range(2))
        extent = torch.tensor([sizes.grid[1] * TOKEN_PX, sizes.grid[0] * TOKEN_PX])
        xy = torch.rand(1, 1, sizes.points, 2, generator=g) * extent
        t = torch.randint(0, sizes.frames, (1, 1, sizes.points, 1), generator=g)
        self.txy = torch.cat([t, xy], -1).to(sizes.device)
        wander = 2 * TOKEN_PX * torch.randn(sizes.points, sizes.frames, 2, generator=g)
        self.estimate = (xy[0, 0, :, None] + wander).to(sizes.device)
        self.prepared = prepare(self.q, self.k, self.txy, TOKEN_PX, config)
        self.maps = [level_map(self.k, TOKEN_PX, s, config) for s in range(config.levels)]  # (T, C, H, W), whole
        self.supports = [rearrange(x, "1 n p c -> n p c") for x in self.prepared.supports]

    def ours(self, level: int) -> Tensor:
        return correlate(self.prepared, self.estimate, level, self.config)

    def _offsets(self, level: int) -> tuple[Tensor, Tensor]:
        """Sample positions (T, N, P, 2) in grid_sample's units."""
        grid = tuple(self.k.shape[3:5])
        centre = cells(self.estimate, grid, TOKEN_PX, level, self.config).transpose(0, 1)
        device = self.k.device
        step = torch.arange(-self.config.radius, self.config.radius + 1.0, device=device)
        offset = torch.stack(torch.meshgrid(step, step, indexing="ij")[::-1], -1).flatten(0, 1)
        height, width = self.maps[level].shape[-2:]
        last = torch.tensor([max(width - 1, 1), max(height - 1, 1)], device=device)
        return 2 * (centre[:, :, None] + offset) / last - 1

    def peer(self, level: int) -> Tensor:
        """Sample the keys as a video of one frame, then multiply."""
        at = self._offsets(level)[:, None]
        at = torch.cat([at, torch.zeros_like(at[..., :1])], -1)
        keys = F.grid_sample(self.maps[level][:, :, None], at, padding_mode="border", align_corners=True)
        return torch.einsum("tcnp,noc->ntpo", keys[:, :, 0], self.supports[level])

    def planar(self, level: int) -> Tensor:
        """The same with a 2-D grid_sample, which no peer uses."""
        keys = F.grid_sample(self.maps[level], self._offsets(level), padding_mode="border", align_corners=True)
        return torch.einsum("tcnp,noc->ntpo", keys, self.supports[level])

    def backward(self, volume: Callable[[int], Tensor]) -> None:
        """All levels, as one iteration of training; gradients reach what each way keeps of keys and queries."""
        leaves = [*self.maps, *self.supports, *self.prepared.keys, *self.prepared.supports]
        kept = self.maps, self.supports, self.prepared
        fresh = {id(x): x.detach().requires_grad_() for x in leaves}
        self.maps, self.supports = ([fresh[id(x)] for x in part] for part in kept[:2])
        keys, supports = (tuple(fresh[id(x)] for x in part) for part in (kept[2].keys, kept[2].supports))
        self.prepared = CorrelationFeatures(keys, supports, *kept[2][2:])
        sum(volume(s).square().mean() for s in range(self.config.levels)).backward()
        self.maps, self.supports, self.prepared = kept


def full_size(sizes: Sizes) -> None:
    """Forward and backward of correlation and head on two views, default head, gradients to q and k."""
    g = torch.Generator().manual_seed(0)
    shape = (1, 2, sizes.frames, *sizes.grid, sizes.heads, sizes.width)
    q, k = (torch.randn(shape, generator=g).to(sizes.device).requires_grad_() for _ in range(2))
    height, width = sizes.grid[0] * TOKEN_PX, sizes.grid[1] * TOKEN_PX
    xy = torch.rand(1, 2, sizes.frames, sizes.points, 2, generator=g) * torch.tensor([width, height])
    visible, valid = torch.ones(xy.shape[:-1], dtype=torch.bool), torch.ones(1, 2, sizes.points, dtype=torch.bool)
    query = torch.cat([torch.zeros(1, 2, sizes.points, 1), xy[:, :, 0]], -1)
    xy, visible, valid, query = (x.to(sizes.device) for x in (xy, visible, valid, query))
    head = TrackingHead(HeadConfig()).to(sizes.device)
    output = head(q, k, query, valid, TOKEN_PX)
    track_loss(output, Tracks(xy, visible, valid), width, TrackLossConfig()).total.backward()


MEASURED = ("peer", "ours", "peer_backward", "ours_backward", "full")


def peak_of(name: str, sizes: Sizes) -> float:
    """How far memory grows, in MiB. Full size counts its features, weights and gradients; the others only the work."""
    return_freed_memory()  # as in training
    small = replace(SMALL, device=sizes.device)
    warm = Clip(small)
    warm.backward(warm.ours)
    warm.backward(warm.peer)
    if name == "full":
        full_size(small)  # libraries load what they need
        work = lambda: full_size(sizes)  # noqa: E731
    else:
        clip = Clip(sizes)
        way = clip.peer if name.startswith("peer") else clip.ours
        work = (lambda: clip.backward(way)) if name.endswith("backward") else (lambda: way(0))
    return peak_mib(work, sizes.device)


def in_fresh_process(name: str) -> float:
    command = [sys.executable, __file__, "--measure", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
