"""Imports point one way, and no file shadows another package's name (docs/architecture.md)."""

import ast
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What each part may import of ours. `backbone` uses the types of diffusion and the taps of correspondence.
BASE = {
    "config",
    "config_data",
    "config_tree",
    "config_views",
    "encoder_config",
    "camera",
    "trajectory",
    "path_shape",
    "path_language",
    "path_keys",
    "video_clip",
    "command",
    "kept_files",
    "new_folder",
    "machine",
}
MIDDLE = {"diffusion", "correspondence", "metrics", "data"}
ALLOWED = {
    "config_data": set(),
    "config_tree": set(),
    "config_views": set(),
    "encoder_config": set(),
    "config": {"config_data", "config_tree", "config_views", "encoder_config"},
    "command": set(),
    "kept_files": set(),
    "new_folder": set(),
    "machine": set(),
    "camera": set(),
    "trajectory": BASE,
    "path_shape": BASE,
    "path_language": BASE,
    "path_keys": BASE,
    "video_clip": BASE,
    "poses": BASE,
    "diffusion": BASE,
    "correspondence": BASE,
    "metrics": BASE,
    "data": BASE,
    "weights": BASE,
    "backbone": BASE | MIDDLE | {"weights"},
    "structure": BASE | MIDDLE | {"poses"},
    "decoder": BASE | MIDDLE | {"backbone"},
    "generate": BASE | MIDDLE | {"backbone", "decoder"},
    "noised": BASE | MIDDLE | {"backbone"},
    "probing": BASE | MIDDLE | {"backbone", "noised"},
    "generate_views": BASE | MIDDLE | {"backbone", "decoder", "generate"},
    "still_views": BASE | MIDDLE | {"backbone", "decoder", "generate", "generate_views", "noised", "probing"},
    "fitting": BASE | MIDDLE,
    "depth_file": BASE | MIDDLE | {"fitting"},
    "frusta": BASE,
    "source_cameras": BASE | MIDDLE | {"structure"},
}
UPPER = BASE | MIDDLE | {"poses", "structure", "weights", "backbone", "decoder", "generate", "fitting", "depth_file"}
UPPER |= {"generate_views", "noised", "probing", "source_cameras", "still_views"}
ALLOWED |= {"training": UPPER, "tracking": UPPER}
ALLOWED["health"] = UPPER
ALLOWED["clip_folders"] = UPPER
ALLOWED["preparing"] = UPPER | {"clip_folders"}
ALLOWED["estimate"] = UPPER | {"training", "health"}
ALLOWED["reshooting"] = UPPER | {"tracking", "estimate"}
ALLOWED["evaluation"] = UPPER | {"tracking", "estimate", "model_options"}
ALLOWED |= {
    part: UPPER | {"tracking", "estimate", "reshooting", "frusta"}
    for part in ("demonstration", "previewing", "shot_options", "track_job")
}
ALLOWED["path_page"] = UPPER | {"reshooting", "previewing"}
ALLOWED["model_options"] = UPPER
ALLOWED["batch"] = UPPER | {"estimate", "reshooting", "shot_options", "model_options"}
ALLOWED["query_pair"] = UPPER | {"reshooting"}
ALLOWED["query_attention"] = UPPER | {"query_pair"}
ENTRIES = {"attention", "train", "reshoot", "preview", "cameras", "demo", "runs", "export", "convert", "track", "cli"}
ENTRIES |= {"__init__", "doctor", "prepare", "train_decoder"}
RESERVED = {"met3r", "vbench", "types", "logging", "datasets", "clip", "models", "utils", "evaluate", "tracker"}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "mvtrack").parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def library_files() -> list[Path]:
    return sorted((ROOT / "mvtrack").rglob("*.py"))


@pytest.mark.parametrize("path", library_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    part = part_of(path)
    if part in ENTRIES:
        return
    parts = {path.stem for path in library_files() if path.parent == ROOT / "mvtrack"}
    parts |= {path.name for path in (ROOT / "mvtrack").iterdir() if path.is_dir()}
    used = {name.split(".")[1] for name in imported_modules(path) if name.startswith("mvtrack.")} & parts
    assert used <= ALLOWED[part] | {part}, f"{part} must not import {sorted(used - ALLOWED[part] - {part})}"


def test_tracking_head_stands_alone():
    for path in (ROOT / "tracking_head").rglob("*.py"):
        foreign = {name.split(".")[0] for name in imported_modules(path)}
        foreign -= set(sys.stdlib_module_names) | {"tracking_head"}
        allowed = {"torch", "einops", "jaxtyping"} | ({"safetensors"} if path.name == "files.py" else set())
        assert foreign <= allowed, f"{path} imports {foreign}"


def test_scripts_are_never_imported():
    for folder in ("datasets", "eval"):
        assert not (ROOT / folder / "__init__.py").exists()
    for path in [*library_files(), *(ROOT / "tracking_head").rglob("*.py")]:
        assert not {"datasets", "eval"} & {name.split(".")[0] for name in imported_modules(path)}, path


def test_no_file_shadows_a_module():
    taken = set(sys.stdlib_module_names) | set(metadata.packages_distributions()) | RESERVED
    taken -= {"mvtrack", "tracking_head", "tests"}
    for folder in ("mvtrack", "eval", "datasets", "benchmarks"):
        for path in (ROOT / folder).iterdir():
            if path.suffix == ".py" or path.is_dir():
                assert path.stem not in taken - {"__init__"}, f"{path} would shadow the module {path.stem}"


def test_torchvision_is_not_imported():
    """Workers run in other environments, with what is installed there."""
    library = [path for path in library_files() if path.parent.name != "workers"]
    for path in [*library, *(ROOT / "tracking_head").rglob("*.py"), *(ROOT / "eval").glob("*.py")]:
        assert "torchvision" not in {name.split(".")[0] for name in imported_modules(path)}, path
