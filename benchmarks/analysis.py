"""`python benchmarks/analysis.py [--small]`: what the analysis of attention costs.

Memory at full size: a transformer of Wan2.1-1.3B's width (12 heads of 128) and two layers with random weights, on two
views of 21 x 30 x 52 tokens, in float32; the peak of a process that runs it once with every layer probed, less that of
one that runs it without. Attention itself is replaced by identity in both: its kernel takes minutes here and its memory
is not the probe's. Beside it the probe alone, on random queries and keys, less what they take.

Time: all layers x 10 noise levels x 16 clips of the shipped tiny model, on two threads.
`--small` shrinks everything to seconds; its figures say nothing.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from bench import report
from torch import Tensor

from mvtrack.config.model import DiTConfig
from mvtrack.correspondence.features import features_from_tokens
from mvtrack.correspondence.probe import probe_rows
from mvtrack.correspondence.probe_scores import sum_scores
from mvtrack.correspondence.targets import CorrespondenceTargets
from mvtrack.data.synthetic.test_scenes import case_specs, render_case
from mvtrack.evaluation.attention.analysis import AnalysisConfig, analyse
from mvtrack.inference.pipeline import shipped_model
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT
from mvtrack.models.hooks import visiting_layers
from mvtrack.models.perturb import perturbed_attention
from mvtrack.models.reshoot_model import load_model


@dataclass(frozen=True)
class Case:
    frames: int
    grid: tuple[int, int]
    heads: int
    width: int
    ffn: int
    layers: int
    queries: int

    def targets(self) -> CorrespondenceTargets:
        """Random queries that ask for every frame but their own."""
        generator, cells = torch.Generator().manual_seed(0), self.grid[0] * self.grid[1]
        query = torch.randint(2 * self.frames * cells, (1, self.queries), generator=generator)
        label = torch.randint(cells, (1, self.queries, 2, self.frames), generator=generator)
        return CorrespondenceTargets(query, label, torch.ones(label.shape), self.grid)

    def transformer(self) -> WanDiT:
        dim = self.heads * self.width
        torch.manual_seed(0)
        return WanDiT(DiTConfig(dim=dim, ffn_dim=self.ffn, num_heads=self.heads, num_layers=self.layers)).eval()


FULL, SMALL = Case(21, (30, 52), 12, 128, 8960, 2, 256), Case(2, (3, 5), 2, 32, 48, 2, 7)
ROUTES = ("probe alone", "model", "model, probed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a smoke test")
    parser.add_argument("--measure", choices=ROUTES, help="print the peak memory of one route at full size")
    options = parser.parse_args()
    if options.measure:
        sys.stdout.write(json.dumps(_peak_mib(FULL, options.measure)) + "\n")
        return 0
    clips, steps, queries = (2, 1, 64) if options.small else (16, 10, 256)
    torch.set_num_threads(1 if options.small else 2)
    seconds, forwards = _seconds(clips, steps, queries)
    peak = {route: _fresh_peak_mib(route, options.small) for route in ROUTES}
    figures = {f"{route}, MiB": value for route, value in peak.items()}
    figures["probe beyond the model, MiB"] = max(peak["model, probed"] - peak["model"], peak["probe alone"])
    figures |= {"tiny model, s": seconds, "tiny model, s a forward": seconds / forwards}
    targets = {"probe beyond the model, MiB": ("<=", 2048), "tiny model, s": ("<=", 600)}
    code = report(figures, targets)
    return 0 if options.small else code


def _seconds(num_clips: int, steps: int, queries: int) -> tuple[float, int]:
    """Rendering included, as `eval/correspondence.py` counts it; and the number of forwards."""
    began, model = time.perf_counter(), load_model(shipped_model())
    specs = case_specs(num_clips, 0, model.config.sizes[0], model.config.num_frames)
    clips = [render_case(spec, num_points=queries).clip for spec in specs]
    analyse(model, clips, AnalysisConfig(steps, queries))
    return time.perf_counter() - began, num_clips * steps


def _fresh_peak_mib(route: str, small: bool) -> float:
    """`_peak_mib` in a fresh process, because the peak of a process never falls."""
    if small:
        return _peak_mib(SMALL, route)
    command = [sys.executable, __file__, "--measure", route]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def _peak_mib(case: Case, route: str) -> float:
    """The peak of a route, less what the process held before it: nothing for a model, q and k for the probe."""
    _probe(SMALL, *_random_features(SMALL))  # loads the libraries' own buffers
    if route == "probe alone":
        features = _random_features(case)
        before = _peak_now_mib()
        _probe(case, *features)
        return _peak_now_mib() - before
    before = _peak_now_mib()
    dit = case.transformer()
    size = [side * patch for side, patch in zip(case.grid, dit.config.patch_size[1:], strict=True)]
    latents = torch.randn(1, 2, case.frames, dit.config.in_channels, *size)
    text = torch.zeros(1, 1, dit.config.text_dim) if dit.config.text_dim else None
    with ExitStack() as stack:
        for layer in range(case.layers):
            stack.enter_context(perturbed_attention(dit, layer, "identity"))
        if route == "model, probed":
            stack.enter_context(visiting_layers(dit, lambda _layer, q, k: _probe(case, q, k)))
        dit(latents, torch.tensor([700.0]), Conditioning(text=text))
    return _peak_now_mib() - before


def _random_features(case: Case) -> tuple[Tensor, Tensor]:
    shape = (1, 2 * case.frames * case.grid[0] * case.grid[1], case.heads, case.width)
    return torch.randn(shape), torch.randn(shape)


def _probe(case: Case, q: Tensor, k: Tensor) -> None:
    targets = case.targets()
    q, k = (features_from_tokens(x.flatten(2), 2, case.frames, case.grid, case.heads) for x in (q, k))
    sum_scores(probe_rows(q, k, targets, 16), targets, 16.0)


def _peak_now_mib() -> float:
    """Linux only. `ru_maxrss` would not do: a process inherits it from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024


if __name__ == "__main__":
    sys.exit(main())
