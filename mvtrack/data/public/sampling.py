"""Scenes of a dataset, and two views of each, drawn at random: the same for one seed in every evaluation."""

import numpy as np

from mvtrack.data.public.layout import DatasetLayout, MultiViewScene, SceneFiles


def drawn_scenes(scenes: list[SceneFiles], count: int, seed: int) -> tuple[SceneFiles, ...]:
    """`count` scenes in their own order, or all where there are fewer."""
    return tuple(scenes[i] for i in sorted(np.random.default_rng(seed).permutation(len(scenes))[:count]))


def read_pair(layout: DatasetLayout, files: SceneFiles, seed: int) -> tuple[MultiViewScene, list[int]]:
    """Two views of a scene, the first the reference, and which they are, drawn from the seed and the scene's name.

    Raises ValueError for photographs, and for a scene of one view.
    """
    scene = layout.read(files)
    if scene.is_still or len(scene.views) < 2:
        what = "photographs of what does not move" if scene.is_still else "one view of each moment"
        raise ValueError(f"{files.path} holds {what}: two videos of the same moments are needed")
    order = np.random.default_rng([seed, *files.name.encode()]).permutation(len(scene.views))[:2].tolist()
    return scene.select(order), order
