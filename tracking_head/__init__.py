"""Multi-view point tracking from query/key features of any backbone. Needs torch and einops
only; its own files are read and written with safetensors."""

from tracking_head.config import HeadConfig
from tracking_head.correlation import correlate, prepare
from tracking_head.files import load_head, save_head
from tracking_head.frames import anchor_queries, to_video_rate
from tracking_head.head import Cameras, HeadOutput, TrackingHead
from tracking_head.losses import TrackLoss, TrackLossConfig, track_loss
from tracking_head.mvtap import MVTAP, MVTAPConfig
from tracking_head.mvtap_weights import load_released
from tracking_head.pyramid import CorrelationConfig
from tracking_head.queries import Features, Queries, queries_from_truth
from tracking_head.tracker import SoftTracks, Tracker
from tracking_head.tracks import Tracks

__all__ = [
    "MVTAP",
    "Cameras",
    "CorrelationConfig",
    "Features",
    "HeadConfig",
    "HeadOutput",
    "MVTAPConfig",
    "Queries",
    "SoftTracks",
    "TrackLoss",
    "TrackLossConfig",
    "Tracker",
    "TrackingHead",
    "Tracks",
    "anchor_queries",
    "correlate",
    "load_head",
    "load_released",
    "prepare",
    "queries_from_truth",
    "save_head",
    "to_video_rate",
    "track_loss",
]
