"""The layouts of datasets that are read. A new one is a file with a `DatasetLayout` in it, and a line here."""

from pathlib import Path

from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.errors import did_you_mean
from mvtrack.data.public.clip_folder import ClipFolders
from mvtrack.data.public.davis import DavisSequences
from mvtrack.data.public.dtu import DTU, PixelNerfDTU
from mvtrack.data.public.iphone import IPhoneCaptures
from mvtrack.data.public.kubric4d import Kubric4D
from mvtrack.data.public.layout import DatasetLayout, SceneFiles
from mvtrack.data.public.movi import Movi
from mvtrack.data.public.multicamvideo import MultiCamVideo
from mvtrack.data.public.mv_kubric import MVKubric
from mvtrack.data.public.navi import Navi
from mvtrack.data.public.photographs import Photographs
from mvtrack.data.public.realestate10k import PixelSplatChunks, RealEstate10K
from mvtrack.data.public.syncdreamer import SyncDreamer
from mvtrack.data.public.wonder3d import Wonder3D

LAYOUTS: dict[str, DatasetLayout] = {
    layout.name: layout
    for layout in (
        MultiCamVideo(),
        MVKubric(),
        Kubric4D(),
        Movi(),
        RealEstate10K(),
        PixelSplatChunks(),
        DTU(),
        PixelNerfDTU(),
        Navi(),
        Wonder3D(),
        SyncDreamer(),
        DavisSequences(),
        IPhoneCaptures(),
        ClipFolders(),
        Photographs(),
    )
}


def open_dataset_folder(root: Path, options: DatasetOptions) -> tuple[DatasetLayout, list[SceneFiles]]:
    """A folder's layout and its scenes. Raises ValueError also for an option that its layout has no use for."""
    layout = find_layout(root, options.layout)
    special = {name for known in LAYOUTS.values() for name in known.options}
    unused = next((n for n in sorted(special - {*layout.options}) if getattr(options, n) is not None), None)
    if unused is not None:
        users = ", ".join(known.name for known in LAYOUTS.values() if unused in known.options)
        raise ValueError(f"--{unused.replace('_', '-')} is for {users}: {root} is read as {layout.name}")
    return layout, layout.scenes(root, options)


def find_layout(root: Path, name: str | None = None) -> DatasetLayout:
    """The layout that was named, or the one that a folder fits.

    Raises ValueError that says what was looked for in each, which came nearest, and what it lacks.
    """
    if name is not None and name not in LAYOUTS:
        hint = did_you_mean(name, list(LAYOUTS)) or ";"
        raise ValueError(f"unknown layout {name!r}{hint} known: {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise ValueError(f"{root} is no folder of clips: give a dataset's folder, or one with a folder per clip")
    if name is not None:
        layout, fitting = LAYOUTS[name], LAYOUTS[name].fitting(root)
        if not fitting.there:
            raise ValueError(f"{root} has nothing of {layout.title}. Looked for {', '.join(layout.signs)}")
        return layout
    found = {key: layout.fitting(root) for key, layout in LAYOUTS.items()}
    whole = [key for key, fitting in found.items() if not fitting.missing]
    if len(whole) == 1:
        return LAYOUTS[whole[0]]
    if whole:
        raise ValueError(f"{root} may be {' or '.join(whole)}: say which with --layout")
    best = max(found, key=lambda key: len(found[key].there) / len(LAYOUTS[key].signs))
    near, looked = found[best], "; ".join(f"{key}: {', '.join(layout.signs)}" for key, layout in LAYOUTS.items())
    nearest = (
        f"the nearest is {best}, which lacks {' and '.join(near.missing)} (below {near.base})" if near.there
        else "none of it is there"
    )  # fmt: skip
    raise ValueError(f"{root} has no layout that is known: {nearest}. Looked for {looked}")
