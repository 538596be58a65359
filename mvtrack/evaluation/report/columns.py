"""Which columns a benchmark's table has: the paper's in its order (MVTrack4Gen, tables 1 to 3), then the others."""

from mvtrack.evaluation.interface import Benchmark, Column, Metric

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
VBENCH = tuple(c.key for c in _PAPER[:6])
CAMERA = ("mRotErr", "mTransErr", "mCamMC")
OTHERS = "Beside the paper's"


def table_groups(benchmark: Benchmark, metrics: tuple[Metric, ...]) -> dict[str, list[Column]]:
    """Columns by heading: those of the benchmark's published table, scored here or not, then what else metrics give."""
    scored = {c.key: c for m in metrics for c in m.columns}
    known = {c.key: c for c in _PAPER} | scored
    groups = {title: [known[key] for key in keys] for title, keys in benchmark.paper_columns.items()}
    placed = {c.key for columns in groups.values() for c in columns}
    rest = [c for key, c in scored.items() if key not in placed]
    return groups | ({OTHERS: rest} if rest else {})
