"""`python benchmarks/correspondence.py [--small]`: the correspondence loss against plain autograd, one CPU thread.

42 key frames of 30 x 52 tokens, 12 heads of 128, float32. Memory is the peak of a process that runs one forward and
backward, less what it held before (q and k) and their gradients; time is measured by turns in this process.
`--small` shrinks everything to seconds; its ratios say nothing. `--device cuda` measures on a GPU: wall time with
synchronisation and allocated memory, against the same targets.
"""

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from bench import clock_of, peak_mib, report, timed_by_turns
from torch import Tensor

from mvtrack.correspondence.loss import correspondence_loss
from mvtrack.correspondence.targets import CorrespondenceTargets


@dataclass(frozen=True)
class Case:
    frames: int
    grid: tuple[int, int]
    heads: int
    width: int

    def tensors(self, num_queries: int, device: str = "cpu") -> tuple[Tensor, Tensor, CorrespondenceTargets]:
        """Features of two views and targets that ask for every frame but the query's own."""
        generator = torch.Generator().manual_seed(0)
        shape, cells = (1, 2, self.frames, *self.grid, self.heads, self.width), self.grid[0] * self.grid[1]
        q, k = (torch.randn(shape, generator=generator).to(device).requires_grad_() for _ in range(2))
        query = torch.randint(2 * self.frames * cells, (1, num_queries), generator=generator)
        label = torch.randint(cells, (1, num_queries, 2, self.frames), generator=generator)
        return q, k, CorrespondenceTargets(query, label, torch.ones(label.shape), self.grid).to(torch.device(device))


FULL, SMALL = Case(21, (30, 52), 12, 128), Case(3, (3, 5), 2, 7)


def ours(q: Tensor, k: Tensor, targets: CorrespondenceTargets) -> Tensor:
    return correspondence_loss(q, k, targets)


def naive(q: Tensor, k: Tensor, targets: CorrespondenceTargets) -> Tensor:
    """The same number as one would write it first: all logits at once, softmax per key frame, mean over heads."""
    views, frames = targets.label.shape[2:]
    asked = q[0].flatten(0, 3)[targets.query[0]]
    logits = torch.einsum("nhd,schd->nshc", asked, k[0].flatten(2, 3).flatten(0, 1)) * q.shape[-1] ** -0.5
    label = targets.label[0].flatten(1)[:, :, None, None].expand(-1, -1, logits.shape[2], -1)
    log_p = logits.log_softmax(-1).gather(-1, label)[..., 0].logsumexp(-1)
    weight = (torch.arange(views * frames, device=q.device) != targets.own_frame[0][:, None]).to(log_p.dtype)
    return -(weight * log_p).sum() / weight.sum() + torch.log(torch.tensor(float(logits.shape[2])))


ROUTES = {"ours": ours, "naive": naive}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a smoke test")
    parser.add_argument("--measure", nargs=2, metavar=("ROUTE", "QUERIES"), help="print the peak memory of one case")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    case = SMALL if options.small else FULL
    if options.measure:
        sys.stdout.write(json.dumps(_forward_backward_mib(case, options.measure[0], int(options.measure[1]))) + "\n")
        return 0
    few, many, most = (5, 11, 13) if options.small else (128, 512, 1024)
    figures = {}
    for count in (many, few):  # the larger case first: its memory is used again
        tensors = case.tensors(count, options.device)
        turns = {name: lambda f=f, t=tensors: torch.autograd.grad(f(*t), t[:2]) for name, f in ROUTES.items()}
        seconds = timed_by_turns(turns, rounds=3, clock=clock_of(options.device))
        figures |= {f"{count} queries, {name}, s": value for name, value in seconds.items()}
        figures[f"{count} queries, time / naive"] = seconds["ours"] / seconds["naive"]
        figures[f"{count} queries, difference of the losses"] = abs(ours(*tensors) - naive(*tensors)).item()
        del tensors, turns
    peak = {(name, n): _peak_mib(name, n, options) for name, n in (("ours", many), ("naive", many), ("ours", most))}
    figures |= {f"{n} queries, {name}, MiB": value for (name, n), value in peak.items()}
    figures[f"{many} queries, naive memory / ours"] = peak["naive", many] / max(peak["ours", many], 1e-3)
    targets = {
        f"{many} queries, naive memory / ours": (">=", 15),
        f"{many} queries, time / naive": ("<=", 1.4),
        f"{few} queries, time / naive": ("<=", 0.8),
        f"{most} queries, ours, MiB": ("<=", 1024),
        f"{many} queries, difference of the losses": ("<=", 1e-4),
    }
    code = report(figures, targets)
    return 0 if options.small else code


def _peak_mib(route: str, num_queries: int, options: argparse.Namespace) -> float:
    """`_forward_backward_mib`, on the CPU in a fresh process, because the peak of a process never falls."""
    if options.small or options.device != "cpu":
        return _forward_backward_mib(SMALL if options.small else FULL, route, num_queries, options.device)
    command = [sys.executable, __file__, "--measure", route, str(num_queries)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _forward_backward_mib(case: Case, route: str, num_queries: int, device: str = "cpu") -> float:
    tensors = case.tensors(num_queries, device)
    tiny = SMALL.tensors(3, device)  # loads the libraries' own buffers
    torch.autograd.grad(ROUTES[route](*tiny), tiny[:2])
    gradients = sum(x.numel() * x.element_size() for x in tensors[:2]) / 2**20
    work = lambda: torch.autograd.grad(ROUTES[route](*tensors), tensors[:2])  # noqa: E731
    if device != "cpu":
        return peak_mib(work, device) - gradients
    before = _peak_now_mib()
    work()
    return _peak_now_mib() - before - gradients


def _peak_now_mib() -> float:
    """Linux only. `ru_maxrss` would not do: a process inherits it from the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024


if __name__ == "__main__":
    sys.exit(main())
