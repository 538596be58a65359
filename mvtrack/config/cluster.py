"""How work is spread over many devices and machines."""

from mvtrack.config.checked import Count, config
from mvtrack.config.command_line import option


@config
class RayOptions:
    """Over which workers tasks are spread."""

    ray: bool = option(False, "spread over a Ray cluster ($RAY_ADDRESS), or over this machine's devices without one")
    ray_workers: Count | None = option(None, "how many; default: one a GPU of the cluster, one a machine without GPUs")

    def __post_init__(self) -> None:
        if self.ray_workers is not None and not self.ray:
            raise ValueError("--ray-workers is for --ray")
