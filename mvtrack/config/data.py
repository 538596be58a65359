"""The settings of training data: rendered banks and folders of encoded clips."""

from dataclasses import dataclass


@dataclass(frozen=True)
class BankConfig:
    """One bank of rendered scenes that training reads (data/bank.py)."""

    root: str = "bank/64x64"
    size: tuple[int, int] = (64, 64)
    num_scenes: int = 512  # scenes that samples are drawn from
    prerender: int = 128  # of these, rendered before the first step; the others follow in the background
    new_scenes_per_step: float = 0.0  # > 0: the window of `num_scenes` moves on with the steps
    num_frames: int = 25
    num_views: int = 3
    num_points: int = 128  # point tracks kept of each scene
    seed: int = 0
    share: float = 1.0  # how often a batch comes from this bank, relative to the others
    static: bool = False

    def __post_init__(self) -> None:
        if self.num_views < 2:
            raise ValueError(f"bank {self.root}: num_views must be at least 2, got {self.num_views}")
        if self.num_scenes < 1 or self.share < 0 or self.new_scenes_per_step < 0:
            raise ValueError(
                f"bank {self.root}: num_scenes must be positive, share and new_scenes_per_step not negative"
            )


@dataclass(frozen=True)
class LatentsConfig:
    """One folder of clips that `mvtrack prepare` encoded (data/latents.py).

    size: of their pictures, (H, W). held_out: how many, the last by name, are for validation and never trained on.
    """

    root: str
    size: tuple[int, int] = (480, 832)
    share: float = 1.0  # how often a batch comes from this folder, relative to the others
    held_out: int = 0

    def __post_init__(self) -> None:
        if self.share < 0 or self.held_out < 0:
            raise ValueError(f"latents {self.root}: share and held_out must not be negative")


@dataclass(frozen=True)
class DataConfig:
    """Rendered banks, or encoded clips. mirror, palette: of pictures; reverse: of time, which clips have if they were
    encoded in both directions. caption_drop: share of samples that learn with the empty caption, for guidance."""

    banks: tuple[BankConfig, ...] = (BankConfig(),)
    latents: tuple[LatentsConfig, ...] = ()
    num_frames: int = 17
    mirror: bool = True
    reverse: bool = True
    palette: bool = True
    caption_drop: float = 0.1
    workers: int = 1

    def __post_init__(self) -> None:
        for bank in self.banks:
            if self.num_frames > bank.num_frames:
                raise ValueError(
                    f"data.num_frames {self.num_frames} exceeds the {bank.num_frames} frames of bank {bank.root}"
                )
        if (self.num_frames - 1) % 4:
            raise ValueError(f"data.num_frames must be 4n + 1, got {self.num_frames}")
        if self.banks and self.latents:
            raise ValueError("data.banks and data.latents are two kinds of data: set one of them to []")
        if sum(source.share for source in (*self.banks, *self.latents)) <= 0:
            raise ValueError("data.banks (or data.latents) needs at least one bank (or folder) with a positive share")
        if self.latents and (self.mirror or self.palette):
            raise ValueError("pictures that are encoded cannot be changed: set data.mirror: false, data.palette: false")
        if not 0 <= self.caption_drop < 1:
            raise ValueError(f"data.caption_drop must lie in [0, 1), got {self.caption_drop}")

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Of the pictures, (H, W)."""
        return tuple(source.size for source in (*self.banks, *self.latents))
