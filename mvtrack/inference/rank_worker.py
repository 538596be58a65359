"""One of the processes of ranks.py: a copy of the model that does its share until it is told to end."""

import os
import sys
import threading
import time

import torch
import torch.distributed as dist
from torch import Tensor

from mvtrack.inference.device import cast_transformer
from mvtrack.inference.ranks import Groups, PassInputs, code_share, file_store, join, received
from mvtrack.inference.sampler import make_window
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.dit import empty_dit
from mvtrack.models.pca_codec import build_codec
from mvtrack.models.reference_pass import ReferenceCache
from mvtrack.models.reshoot_model import ReshootModel


def main() -> int:
    folder, rank, count, device = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), torch.device(sys.argv[4])
    threading.Thread(target=_end_with_the_parent, args=(os.getppid(),), daemon=True).start()
    join(file_store(folder, count), rank, count, device)
    serve(device)
    return 0


@torch.no_grad()
def serve(device: torch.device) -> None:
    """Do this process's share of what the group that it has joined makes, until it is told that no more comes."""
    groups, model = Groups(), _copy(device)
    caches: dict[int, ReferenceCache] = {}
    conditioning = Conditioning()
    while (message := received(device)) is not None:
        if message[0] == "tiles":
            _, half, shape, tiles = message
            code_share(model.codec, half, _from_first(shape, torch.float32, device), tiles)
            continue
        if message[0] == "windows":
            if groups.rank < message[1]:
                job = [None]
                dist.recv_object_list(job, 0, device=device)
                dist.send_object_list([make_window(model, *job[0])], 0, device=device)
            continue
        _, shape, dtype, autocast, fields, cache = message
        latents, timestep = _from_first(shape, dtype, device), _from_first(shape[:1], torch.float32, device)
        if fields is not None:
            values = (_from_first(*f, device) if isinstance(f, tuple) else f for f in fields)
            conditioning = Conditioning(*values)
        model.dit.reference_cache = None
        if cache is not None:
            number, key = cache
            if number not in caches:
                caches = {number: ReferenceCache()}
            model.dit.reference_cache = caches[number]
            model.dit.reference_cache.branch(key)
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            groups.run(model.dit, PassInputs(latents, timestep, conditioning))
    dist.destroy_process_group()


def _copy(device: torch.device) -> ReshootModel:
    """Of the first process's model."""
    config, dtype, attention, compiled, codec_state, batched_guidance = received(device)
    dit = empty_dit(config).to_empty(device=device)
    cast_transformer(dit, dtype)
    for tensor in (*dit.parameters(), *dit.buffers()):
        dist.broadcast(tensor.data, src=0)
    dit.attention = attention
    if compiled:
        dit.compile_blocks(or_not=True)
    codec = build_codec(config.codec)
    codec.load_state_dict(codec_state)
    return ReshootModel(config, dit.eval(), codec.to(device), device, batched_guidance=batched_guidance)


def _from_first(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype, device=device)
    dist.broadcast(tensor, src=0)
    return tensor


def _end_with_the_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
