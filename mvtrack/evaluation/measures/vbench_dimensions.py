"""The six of VBench's dimensions that the paper reports: their columns, and what each needs besides the package."""

from dataclasses import dataclass

from mvtrack.evaluation.interface import Column


@dataclass(frozen=True)
class Dimension:
    """key: VBench's own name. weights: names in the registry. cache: where VBench looks for each under its cache
    folder. per_video_scale: what brings its values of single videos to its total's range."""

    key: str
    title: str
    weights: tuple[str, ...] = ()
    cache: tuple[str, ...] = ()
    per_video_scale: float = 1.0
    non_commercial: str | None = None

    @property
    def column(self) -> Column:
        return Column(self.key, self.title, "higher")


DIMENSIONS: dict[str, Dimension] = {
    d.key: d
    for d in (
        Dimension(
            "subject_consistency", "Subject consistency", ("dino_vitb16",), ("dino_model/dino_vitbase16_pretrain.pth",)
        ),
        Dimension("background_consistency", "Background consistency", ("clip_vit_b32",), ("clip_model/ViT-B-32.pt",)),
        Dimension(
            "aesthetic_quality",
            "Aesthetic quality",
            ("clip_vit_l14", "laion_aesthetic"),
            ("clip_model/ViT-L-14.pt", "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
        ),
        Dimension(
            "imaging_quality",
            "Imaging quality",
            ("musiq_spaq",),
            ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",),
            0.01,
            "MUSIQ comes through pyiqa, which is for non-commercial use",
        ),
        Dimension("temporal_flickering", "Temporal flickering"),
        Dimension(
            "motion_smoothness",
            "Motion smoothness",
            ("amt_s",),
            ("amt_model/amt-s.pth",),
            1.0,
            "AMT's weights are for non-commercial use",
        ),
    )
}
DINO_REPOSITORY = "dino_model/facebookresearch_dino_main"  # VBench takes DINO's code from a clone in its cache
