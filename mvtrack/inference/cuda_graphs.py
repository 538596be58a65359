"""Passes of a network on a GPU that are recorded once and replayed: a small model waits for its launches, not for sums.

What works on its inputs alone can be recorded: no step cache, no references that are kept from pass to pass, no taps.
"""

import torch
from torch import Tensor

from mvtrack.models.backbone import DiTOutput
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT

_MOST = 8  # recordings that are held, each with the memory of a pass


class RecordedPasses:
    """One recording for every shape of input; the oldest goes."""

    def __init__(self) -> None:
        self._recordings: dict[tuple, _Recording] = {}

    def run(self, dit: WanDiT, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> DiTOutput:
        """The network's output, without taps. Raises ValueError for a pass that cannot be recorded."""
        if dit.step_cache is not None or dit.reference_cache is not None:
            raise ValueError("a recorded pass cannot remember the one before it: leave out --cuda-graphs")
        inputs = (latents, timestep, *conditioning.to(latents.device))
        key = (torch.is_autocast_enabled("cuda"), *map(_described, inputs))
        if key not in self._recordings:
            if len(self._recordings) == _MOST:
                del self._recordings[next(iter(self._recordings))]
            self._recordings[key] = _Recording(dit, inputs)
        return DiTOutput(self._recordings[key].replay(inputs), ())


def _described(value: object) -> object:
    return (value.shape, value.dtype) if isinstance(value, Tensor) else value


class _Recording:
    def __init__(self, dit: WanDiT, inputs: tuple) -> None:
        self.inputs = tuple(x.clone() if isinstance(x, Tensor) else x for x in inputs)
        latents, timestep, *rest = self.inputs
        device, self.graph = latents.device, torch.cuda.CUDAGraph()
        # copies that autocast makes of weights would be gone when the recording asks for them: it makes them anew
        autocast = torch.autocast(
            "cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False
        )
        beside = torch.cuda.Stream(device)
        beside.wait_stream(torch.cuda.current_stream(device))
        try:
            with autocast:
                with torch.cuda.stream(beside):
                    for _ in range(2):  # chooses kernels, compiles
                        dit(latents, timestep, Conditioning(*rest))
                torch.cuda.current_stream(device).wait_stream(beside)
                torch.cuda.empty_cache()  # of the trials' memory, which a recording cannot use
                with torch.cuda.graph(self.graph):
                    self.output = dit(latents, timestep, Conditioning(*rest)).prediction
                self.rope = dit.kept_rope  # the recording reads where it lies; the next shape's takes its place there
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"a pass of this model cannot be recorded: leave out --cuda-graphs ({reason})") from error

    def replay(self, inputs: tuple) -> Tensor:
        for mine, given in zip(self.inputs, inputs, strict=True):
            if isinstance(mine, Tensor):
                mine.copy_(given)
        self.graph.replay()
        return self.output.clone()
