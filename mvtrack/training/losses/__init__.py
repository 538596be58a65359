"""What a model is trained by: the weighted sum of these losses. A new one is a file here and a line in `LOSSES`."""

from mvtrack.training.losses.correspondence import CorrespondenceLoss
from mvtrack.training.losses.denoising import DenoisingLoss
from mvtrack.training.losses.distillation import DistillationLoss
from mvtrack.training.losses.geometry_forcing import GeometryForcingLoss
from mvtrack.training.losses.repa import RepaLoss
from mvtrack.training.losses.tracking import TrackingLoss

LOSSES = (DenoisingLoss, DistillationLoss, CorrespondenceLoss, TrackingLoss, RepaLoss, GeometryForcingLoss)
