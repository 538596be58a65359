"""The settings of training data: rendered banks and folders of encoded clips."""

from typing import Annotated, Literal

from mvtrack.config.checked import Count, NonNegative, NonNegativeInt, Range, config


@config
class BankConfig:
    """One bank of rendered scenes that training reads (data/bank.py)."""

    root: str = "bank/64x64"
    size: tuple[Count, Count] = (64, 64)
    num_scenes: Count = 512  # scenes that samples are drawn from
    prerender: NonNegativeInt = 128  # of these, rendered before the first step; the others follow in the background
    new_scenes_per_step: NonNegative = 0.0  # > 0: the window of `num_scenes` moves on with the steps
    num_frames: Count = 25
    num_views: Annotated[int, Range(2)] = 3
    num_points: NonNegativeInt = 128  # point tracks kept of each scene
    seed: int = 0
    share: NonNegative = 1.0  # how often a batch comes from this bank, relative to the others
    static: bool = False
    scenes: Literal["smooth", "natural"] = "smooth"  # natural: textures of all scales with hard borders, thin things
    max_angle_deg: Annotated[float, Range(5, 90, True, True)] = 25.0  # of a view's path about the subject
    above_ground: bool = False  # no camera below the ground (else one in forty)


@config
class LatentsConfig:
    """One folder of clips that `mvtrack prepare` encoded (data/latents.py).

    size: tuple[Count, Count]
    """

    root: str
    size: tuple[int, int] = (480, 832)
    share: NonNegative = 1.0  # how often a batch comes from this folder, relative to the others
    held_out: NonNegativeInt = 0
    view_window: Annotated[int, Range(2)] | None = None  # views of a sample are among so many neighbours; None: any
    domains: tuple[str, ...] = ()  # kinds of pictures that are used, such as photo; none: all
    points: str | None = None  # folder of NAME.npy, points in 3D of each view's pixels, for clips without depth
    label: Literal["re10k", "co3d", "others"] | None = None  # of all its scenes, for CAT3D; null: their own domain


@config
class DataConfig:
    """Rendered banks, or encoded clips. mirror, palette: of pictures; reverse: of time, which clips have if they were
    encoded in both directions. hue_deg, gain: largest turn of hue, and of brightness as a factor's distance from 1.
    caption_drop: share of samples that learn with the empty caption, for guidance."""

    banks: tuple[BankConfig, ...] = (BankConfig(),)
    latents: tuple[LatentsConfig, ...] = ()
    num_frames: Count = 17
    mirror: bool = True
    reverse: bool = True
    palette: bool = True
    hue_deg: Annotated[float, Range(0, 180)] = 0.0
    gain: Annotated[float, Range(0, 1, high_open=True)] = 0.0
    caption_drop: Annotated[float, Range(0, 1, high_open=True)] = 0.1
    workers: NonNegativeInt = 1

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
        if self.latents and (self.mirror or self.palette or self.hue_deg or self.gain):
            raise ValueError(
                "pictures that are encoded cannot be changed: set data.mirror: false, data.palette: false, "
                "data.hue_deg: 0, data.gain: 0"
            )

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Of the pictures, (H, W)."""
        return tuple(source.size for source in (*self.banks, *self.latents))
