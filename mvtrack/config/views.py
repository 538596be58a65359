"""The settings of the static case, and what else in a config has to go with them."""

from typing import Literal

from mvtrack.config.checked import Count, config


@config
class ViewsConfig:
    """The static case, CAMEO's: some views of a still scene are given, the model makes the others (method §7).

    count: views of a sample. references: how many of them are given; one of these numbers is drawn per sample.
    encoding: each view is a one-frame video of its own (`images`, as CAMEO's), or the views are the latent frames of
    one camera path of 4 (count - 1) + 1 frames, of which the first are given (`path`).
    """

    count: Count = 4
    references: tuple[Count, ...] = (1, 2, 3)
    encoding: Literal["images", "path"] = "images"

    def __post_init__(self) -> None:
        if not self.references or not all(1 <= n < self.count for n in self.references):
            raise ValueError(f"views.references must lie in [1, {self.count - 1}], got {list(self.references)}")

    @property
    def num_frames(self) -> int:
        """Video frames of a sample."""
        return 1 if self.encoding == "images" else 4 * (self.count - 1) + 1

    def check_model(self, num_frames: int, rope_frames: str, has_tracking: bool) -> None:
        """Raise ValueError, with the fix, for a model that cannot take these views."""
        if num_frames != self.num_frames:
            raise ValueError(
                f"views.encoding {self.encoding} with {self.count} views needs num_frames: {self.num_frames}, "
                f"got {num_frames}"
            )
        if rope_frames == "concat":
            raise ValueError("dit.rope_frames concat numbers whole views by role: with views set it to by_view")
        if has_tracking:
            raise ValueError("views are of still scenes, in which nothing moves: set tracking: null")

    def check_banks(self, num_frames: int, banks: dict[str, tuple[bool, int]]) -> None:
        """Raise ValueError, with the fix, for data without such views. banks: by root, (static, num_views)."""
        if num_frames != self.num_frames:
            raise ValueError(f"model.views needs data.num_frames: {self.num_frames}, got {num_frames}")
        for root, (static, num_views) in banks.items():
            if not static:
                raise ValueError(f"model.views needs still scenes: set static: true in bank {root}")
            if self.encoding == "images" and num_views < self.count:
                raise ValueError(f"bank {root}: num_views {num_views} is less than model.views.count {self.count}")

    def check_loss(self, targets: str, exclude: str) -> None:
        """Raise ValueError, with the fix, for a correspondence loss that has nothing to ask here."""
        if targets == "depth":
            raise ValueError(
                "loss.correspondence_targets depth asks target views for one reference: with model.views set points"
            )
        if self.encoding == "path" and exclude == "own_view":
            raise ValueError(
                "loss.correspondence_options.exclude own_view leaves nothing of a single path: set own_frame"
            )
