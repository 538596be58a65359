"""Which columns a benchmark's table has, in the paper's order (MVTrack4Gen, tables 1 to 3), scored here or not."""

from mvtrack.evaluation.interface import Column, Metric

_PAPER = (
    Column("subject_consistency", "Subject consistency", "higher"),
    Column("background_consistency", "Background consistency", "higher"),
    Column("aesthetic_quality", "Aesthetic quality", "higher"),
    Column("imaging_quality", "Imaging quality", "higher"),
    Column("temporal_flickering", "Temporal flickering", "higher"),
    Column("motion_smoothness", "Motion smoothness", "higher"),
    Column("psnr", "PSNR", "higher"),
    Column("ssim", "SSIM", "higher"),
    Column("lpips", "LPIPS", "lower"),
    Column("met3r", "MEt3R", "lower"),
    Column("met3r_dynamic", "MEt3R dynamic", "lower"),
    Column("mRotErr", "mRotErr (°)", "lower"),
    Column("mTransErr", "mTransErr", "lower"),
    Column("mCamMC", "mCamMC", "lower"),
)
_VBENCH = tuple(c.key for c in _PAPER[:6])
_CAMERA = ("mRotErr", "mTransErr", "mCamMC")
_GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "davis": {
        "Visual quality": _VBENCH,
        "Geometric consistency": ("met3r", "met3r_dynamic"),
        "Camera accuracy": _CAMERA,
    },
    "iphone": {
        "Visual quality": ("psnr", "ssim", "lpips"),
        "Geometric consistency": ("met3r",),
        "Camera accuracy": _CAMERA,
    },
}
OTHERS = "Beside the paper's"


def table_groups(benchmark: str, metrics: tuple[Metric, ...]) -> dict[str, list[Column]]:
    """Columns by heading: the paper's for that benchmark, then what else the metrics give."""
    given = {c.key: c for m in metrics for c in m.columns}
    known = {c.key: c for c in _PAPER} | given
    groups = {title: [known[key] for key in keys] for title, keys in _GROUPS.get(benchmark, {}).items()}
    placed = {c.key for columns in groups.values() for c in columns}
    rest = [c for key, c in given.items() if key not in placed]
    return groups | ({OTHERS: rest} if rest else {})
