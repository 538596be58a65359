"""Several processes, each with a GPU, that share one video. Either every pass: guidance's two predictions, and the
tokens; of a VAE that works in tiles, the tiles. Or windows: each encodes, samples and decodes whole ones.

The first process does everything else: it reads and writes. The others have copies of its network, read the VAE when it
is first needed, and are asked at each pass, or for each window.
"""

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.models.activation_checkpointing import run_block
from mvtrack.models.backbone import DiTOutput
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import WanDiT
from mvtrack.models.reference_pass import ReferenceCache
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.models.sequence_parallel import SequenceGroup, sharing
from mvtrack.models.tiling import Tile
from mvtrack.models.wan_vae import Half, WanVAECodec

TIMEOUT = timedelta(days=3)  # the first may be long at other work; that one has ended is seen otherwise


def check_ranks(config: ModelConfig, count: int) -> None:
    """Raise ValueError for a number of processes that cannot share the network's heads."""
    heads, guided = config.dit.num_heads, bool(config.text_dim) or config.ray_drop > 0
    fits = [n for n in range(1, 2 * heads + 1) if heads % n == 0 or (guided and n % 2 == 0 and heads % (n // 2) == 0)]
    if count not in fits:
        raise ValueError(f"--gpus {count} cannot share {heads} heads: use one of {', '.join(map(str, fits))}")


def refuse_ranks(heads: int, cells: int, count: int, guided: bool) -> None:
    """Raise ValueError for a number of processes that cannot share a pass. cells: tokens of a frame."""
    share = token_ranks(count, guided)
    if heads % share:
        raise ValueError(
            f"{count} processes share {heads} heads only by twos, one half for each of guidance's predictions, and "
            f"there is no guidance: use --gpus {count // 2}, or --guidance"
        )
    if cells % share:
        raise ValueError(f"{cells} tokens of a frame do not divide among {share} GPUs: use another --gpus or --size")


def token_ranks(count: int, guided: bool) -> int:
    """How many of so many processes share a sample's tokens: guidance's two samples take a half of them each."""
    return count // 2 if guided and count % 2 == 0 else count


class Groups:
    """This process among all. By number of samples side by side: which of them it has, and who shares its tokens."""

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self.whole, half = SequenceGroup(dist.group.WORLD), self.count // 2
        self.halves = None
        if self.count % 2 == 0:
            pair = [dist.new_group(list(range(i * half, (i + 1) * half))) for i in range(2)]  # all make both
            self.halves = SequenceGroup(pair[self.rank // half])

    def run(self, dit: WanDiT, inputs: "PassInputs") -> Tensor:
        """A pass over all processes; the prediction of all samples, on each."""
        if len(inputs.latents) == 2 and self.halves is not None:
            side = self.rank // (self.count // 2)
            own = self._forward(dit, inputs.sample(side), self.halves)
            both = [torch.empty_like(own) for _ in range(2)]
            for i, prediction in enumerate(both):
                dist.broadcast(own if i == side else prediction, src=i * (self.count // 2))
                both[i] = own if i == side else prediction
            return torch.cat(both)
        return self._forward(dit, inputs, self.whole)

    def _forward(self, dit: WanDiT, inputs: "PassInputs", sequence: SequenceGroup) -> Tensor:
        with sharing(dit, sequence):
            return dit(inputs.latents, inputs.timestep, inputs.conditioning).prediction.contiguous()


class PassInputs:
    """Of one pass."""

    def __init__(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> None:
        self.latents, self.timestep, self.conditioning = latents, timestep, conditioning

    def sample(self, index: int) -> "PassInputs":
        one = slice(index, index + 1)
        parts = (x[one] if isinstance(x, Tensor) else x for x in self.conditioning)
        return PassInputs(self.latents[one], self.timestep[one], Conditioning(*parts))


class Ranks:
    """The other processes, as the first one sees them. They end with it, or when another model takes their place.

    launched: joins those that a launcher started, see torchrun.py; None: `count` - 1 are started.
    Raises ValueError where they do not start, or where this process is one of several already.
    """

    launched: Callable[[torch.device], None] | None = None
    _at_work: "Ranks | None" = None

    def __init__(self, model: ReshootModel, count: int) -> None:
        if Ranks._at_work is not None:
            Ranks._at_work.close()
        if dist.is_initialized():
            raise ValueError("--gpus starts processes of its own: leave it out where several run already")
        self.device = device = model.device
        self._folder = tempfile.TemporaryDirectory(prefix="mvtrack_ranks_")
        self._sent: Conditioning | None = None
        self._cache: tuple[ReferenceCache | None, int] = (None, 0)
        self._ending = self._broken = self._waiting = False
        self.count, own, dit = count, Ranks.launched is None, model.dit
        self._workers = [self._start(rank, count) for rank in range(1, count)] if own else []
        Ranks._at_work = self
        atexit.register(self.close)
        threading.Thread(target=self._watch, daemon=True).start()
        with self._explained():
            if Ranks.launched is None:
                join(file_store(self._folder.name, count), 0, count, device)
            else:
                Ranks.launched(device)
            self._groups = Groups()
            compiled, codec = dit._run_block is not run_block, model.codec.state_dict()  # empty where files hold it
            send((model.config, dit.dtype, dit.attention, compiled, codec, model.batched_guidance), device)
            for tensor in (*dit.parameters(), *dit.buffers()):
                dist.broadcast(tensor.data, src=0)

    def run(self, dit: WanDiT, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> DiTOutput:
        """A pass of the network. Raises ValueError when a process has ended, and for one sample on more processes than
        share its heads."""
        self._refuse_ended()
        cells = latents.shape[-2] * latents.shape[-1] // dit.config.patch_size[1] ** 2
        refuse_ranks(dit.config.num_heads, cells, self.count, len(latents) == 2)
        with self._explained():
            new = conditioning is not self._sent
            self._sent = conditioning
            here = conditioning.to(self.device)
            tensors = [latents, timestep, *(x for x in here if isinstance(x, Tensor))]
            shapes = [(tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x for x in here]
            fields = shapes if new else None
            rounds = torch.is_autocast_enabled(self.device.type)
            autocast = torch.get_autocast_dtype(self.device.type) if rounds else None  # what is exchanged has its dtype
            send(("pass", tuple(latents.shape), latents.dtype, autocast, fields, self._cache_of(dit)), self.device)
            for tensor in tensors if new else tensors[:2]:
                dist.broadcast(tensor.contiguous(), src=0)
            return DiTOutput(self._groups.run(dit, PassInputs(latents, timestep, here)), ())

    def code_tiles(self, codec: WanVAECodec, half: Half, given: Tensor, tiles: list[Tile]) -> list[Tensor]:
        """Every tile's latents or frames. Raises ValueError when a process has ended."""
        self._refuse_ended()
        with self._explained():
            send(("tiles", half, tuple(given.shape), tiles), self.device)
            given = given.float().contiguous()
            dist.broadcast(given, src=0)
            return code_share(codec, half, given, tiles)

    def make_windows(self, jobs: list[tuple], own: Callable[..., tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """What `make_window` of sampler.py makes of each; all lies on the CPU. Raises ValueError when a process has
        ended."""
        self._refuse_ended()
        with self._explained():
            send(("windows", len(jobs)), self.device)
            for rank, job in enumerate(jobs[1:], 1):
                dist.send_object_list([job], rank, device=self.device)
            made, box = [own(*jobs[0])], [None]
            for rank in range(1, len(jobs)):
                dist.recv_object_list(box, rank, device=self.device)
                made.append(box[0])
            return made

    def close(self) -> None:
        """End the other processes."""
        if self._ending:
            return
        Ranks._at_work = None
        alive = not self._broken and all(worker.poll() is None for worker in self._workers)
        self._ending = True
        if alive and dist.is_initialized():
            try:
                send(None, self.device)
            except RuntimeError:
                alive = False
        for worker in self._workers:
            if not alive:
                worker.kill()
            try:
                worker.wait(30)
            except subprocess.TimeoutExpired:
                worker.kill()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._folder.cleanup()

    def _refuse_ended(self) -> None:
        if self._ending or self._broken:
            why = "a pass of theirs failed" if self._broken else "another model's took their place"
            raise ValueError(f"the processes of this model are not at work any more: {why}; start anew")

    def _cache_of(self, dit: WanDiT) -> tuple[int, int] | None:
        """Which cache of references this pass has, and which branch of it."""
        before, number = self._cache
        if dit.reference_cache is not before:
            self._cache = dit.reference_cache, number + 1
        return None if dit.reference_cache is None else (self._cache[1], dit.reference_cache.key)

    def _start(self, rank: int, count: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "mvtrack.inference.rank_worker", self._folder.name, str(rank), str(count)]
        where = str(self.device) if self.device.type == "cpu" else f"cuda:{(self.device.index or 0) + rank}"
        return subprocess.Popen([*command, where], start_new_session=True)

    def _dead(self) -> str | None:
        for rank, worker in enumerate(self._workers, 1):
            code = worker.poll()
            if code is not None:
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
                return f"process {rank} of the {self.count} that make this video {how}; messages are above"
        return None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        self._broken = self._waiting = True  # until it has ended: else the others wait somewhere within it
        try:
            yield
            self._broken = False
        except RuntimeError as error:
            for _ in range(50):  # the other's end may be seen later than its silence
                if (dead := self._dead()) is not None:
                    raise ValueError(dead) from error
                time.sleep(0.1)
            raise
        finally:
            self._waiting = False

    def _watch(self) -> None:
        """NCCL waits for a process that is gone; this ends what would hang."""
        while not self._ending:
            dead = self._dead()
            if dead is not None:
                time.sleep(20)  # where an error says it, it has by now
                if self._waiting:
                    sys.stderr.write(f"error: {dead}\n")
                    sys.stderr.flush()
                    os._exit(1)
            time.sleep(0.5)


def code_share(codec: WanVAECodec, half: Half, given: Tensor, tiles: list[Tile]) -> list[Tensor]:
    """All processes code tiles, each every so many-th. On the first: every tile's; elsewhere the own ones."""
    rank, count = dist.get_rank(), dist.get_world_size()
    made = {n: torch.cat([piece for _, piece in codec.pieces(half, given, tiles[n])])
            for n in range(rank, len(tiles), count)}  # fmt: skip
    for n in range(len(tiles)):
        if n % count == 0:
            continue
        if rank == 0:
            made[n] = torch.empty(codec.tile_shape(half, given, tiles[n]), device=given.device)
            dist.recv(made[n], src=n % count)
        elif n in made:
            dist.send(made[n].contiguous(), dst=0)
    return [made[n] for n in sorted(made)]


def file_store(folder: str, count: int) -> dist.Store:
    """Of this machine's processes."""
    return dist.FileStore(f"{folder}/store", count)


def join(store: dist.Store, rank: int, count: int, device: torch.device) -> None:
    """The process group of those that share passes."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=count, timeout=TIMEOUT,
    )  # fmt: skip


def send(message: Any, device: torch.device) -> None:
    dist.broadcast_object_list([message], src=0, device=device)


def received(device: torch.device) -> Any:
    box = [None]
    dist.broadcast_object_list(box, src=0, device=device)
    return box[0]
