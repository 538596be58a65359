"""What a model is trained by: the weighted sum of these losses. A new one is a file here and a line in `LOSSES`."""

from mvtrack.training.losses.correspondence import CorrespondenceLoss
from mvtrack.training.losses.rectified_flow import RectifiedFlowLoss
from mvtrack.training.losses.tracking import TrackingLoss

LOSSES = (RectifiedFlowLoss, CorrespondenceLoss, TrackingLoss)
