"""Matches between pictures by the matcher that a config names: SIFT here, or a dense one in its own environment."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.matching import MatchingConfig
from mvtrack.inference.external_program import ExternalProgram, WorkerError, write_frames
from mvtrack.metrics.view_matches import matched_points, pixel_matches
from mvtrack.video.writer import to_bytes

PicturePair = tuple[Float[Tensor, "3 H W"], Float[Tensor, "3 h w"]]  # pictures in [-1, 1]
# title, the module that the environment must have, variable with its interpreter
_PROGRAMS = {
    "loftr": ("LoFTR", "kornia", "MVTRACK_LOFTR_PYTHON"),
    "aspanformer": ("AspanFormer", "yacs", "MVTRACK_ASPANFORMER_PYTHON"),
}


class ViewMatches(NamedTuple):
    """Places (N, 2) in both pictures, raster coordinates (x, y), and the matcher's confidence; None: it gives none."""

    first: np.ndarray
    second: np.ndarray
    confidence: np.ndarray | None


def match_views(pairs: list[PicturePair], config: MatchingConfig, to_the_pixel: bool = False) -> list[ViewMatches]:
    """Of each pair. to_the_pixel: with any pixel of the second picture, not with points on a grid; dense matchers do
    so always.

    Raises ValueError for what the matcher lacks, WorkerError where it fails.
    """
    if config.matcher == "sift":
        match = pixel_matches if to_the_pixel else matched_points
        return [ViewMatches(*match(*pair), None) for pair in pairs]
    if lacking := missing_matcher(config):
        raise ValueError(f"views cannot be matched: missing {lacking}")
    if not pairs:
        return []
    with tempfile.TemporaryDirectory(prefix="mvtrack-matches-") as name:
        for number, pair in enumerate(pairs):
            for side, picture in enumerate(pair):
                write_frames(Path(name) / str(side), to_bytes(picture[None]), first=number)
        paths = [[f"{side}/frames/{number:05d}.png" for side in range(2)] for number in range(len(pairs))]
        job = {"kind": config.matcher, "weights": str(config.weights.absolute()), "pairs": paths}
        job |= {"repo": config.repo and str(config.repo.absolute())}
        job |= {"threshold": config.threshold, "side": config.side}
        found = _program(config).run(Path(name), job=job)
    count = found["count"]
    if len(count) != len(pairs) or any(len(found[k]) != count.sum() for k in ViewMatches._fields):
        raise WorkerError(f"{matcher_title(config)} gave matches of {len(count)} pairs, {len(pairs)} were asked for")
    parts = (np.split(found[name], np.cumsum(count)[:-1]) for name in ViewMatches._fields)
    return [ViewMatches(*part) for part in zip(*parts, strict=True)]


def matcher_title(config: MatchingConfig) -> str:
    """What reports call it."""
    if config.matcher == "sift":
        return "mutual nearest neighbours of SIFT descriptors"
    title = f"{_PROGRAMS[config.matcher][0]} ({config.weights.name}, confidence over {config.threshold:g}"
    return f"{title}, pictures scaled to {config.side} px)"


def missing_matcher(config: MatchingConfig) -> str | None:
    """What has to be installed or named; None where it can run."""
    if config.matcher == "sift":
        return None
    if lacking := _program(config).missing():
        return lacking
    if not config.weights.is_file():
        return f"the weights {config.weights}: set matching.weights to {_PROGRAMS[config.matcher][0]}'s file"
    if config.matcher == "loftr":
        return None
    if config.repo is None or not (config.repo / "src/ASpanFormer/aspanformer.py").is_file():
        return f"AspanFormer's checkout: clone apple/ml-aspanformer and set matching.repo to it, not {config.repo}"
    if not config.non_commercial:
        return "consent: AspanFormer, code and weights, is for non-commercial use; set matching.non_commercial: true"
    return None


def _program(config: MatchingConfig) -> ExternalProgram:
    title, package, variable = _PROGRAMS[config.matcher]
    python = config.python or (Path(os.environ[variable]) if os.environ.get(variable) else None)
    how = f"make an environment with {package} and name its interpreter: matching.python, or ${variable}"
    return ExternalProgram(Path(__file__).parent / "workers/matcher_worker.py", package, title, python, how)
