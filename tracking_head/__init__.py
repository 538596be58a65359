"""Multi-view point tracking from query/key features of any backbone. Needs torch and einops only."""

from tracking_head.tracks import Tracks

__all__ = ["Tracks"]
