"""The trackers by name: what each needs, what names its results, and building it."""

from dataclasses import dataclass
from pathlib import Path

from mvtrack.config.placement import Placement
from mvtrack.inference.device import place, placed_config
from mvtrack.inference.memory.check_memory import free_memory, refuse_inference
from mvtrack.inference.memory.encoders import encoders_of
from mvtrack.inference.memory.inference import GIB, Work
from mvtrack.inference.pipeline import shipped_model
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.prompts import remember_prompts
from mvtrack.models.reshoot_model import load_model, model_file, read_config
from mvtrack.models.weights.consent import consent_lacking
from mvtrack.models.weights.fingerprint import fingerprint
from mvtrack.training.pseudo_tracks.cotracker import CoTracker, CoTrackerTracker
from mvtrack.training.pseudo_tracks.mvtap import MVTAPTracker, load_mvtap, mvtap_bytes
from mvtrack.training.pseudo_tracks.options import TrackerOptions
from mvtrack.training.pseudo_tracks.scene_model import CrossViewStarts, HeadTracker, SceneModel
from mvtrack.training.pseudo_tracks.track_clips import ViewTracker
from mvtrack.training.pseudo_tracks.views import ClipViews, GridQueries
from mvtrack.video.resize import plan_fit
from tracking_head import MVTAPConfig

_COTRACKER = "facebook/cotracker3"  # whoever keeps a copy under another name


@dataclass(frozen=True)
class TrackerSource:
    """A tracker before its weights are read. model: folder or hub id; None: the tiny one that ships."""

    options: TrackerOptions
    model: str | None
    placement: Placement

    @property
    def _model(self) -> str:
        return str(self.model or shipped_model(tracking=True))

    def made_by(self) -> dict:
        """What tells its tracks from others'. Raises ValueError for what is missing, the consent to a licence too."""
        options, made = self.options, {"tracker": self.options.tracker}
        if options.tracker != "own":
            made["weights"] = fingerprint(self._weights())
        if options.tracker == "cotracker3":
            program = self._cotracker().program
            if lacking := program.missing():
                raise ValueError(f"--tracker cotracker3 cannot run: missing {lacking}")
            made["package"] = program.identity()
        if options.needs_model:
            made |= {"model": fingerprint(model_file(self._model)), "distance": options.subject_distance}
        return made | {"starts": options.starts}

    def _weights(self) -> Path:
        options = self.options
        if options.tracker_weights is None:
            raise ValueError(f"--tracker {options.tracker} needs --tracker-weights FILE, the authors' released weights")
        if not options.tracker_weights.is_file():
            raise ValueError(f"weights file {options.tracker_weights} does not exist")
        named = _COTRACKER if options.tracker == "cotracker3" else str(options.tracker_weights)
        if not options.non_commercial and (lacking := consent_lacking(named)):
            raise ValueError(f"--tracker {options.tracker} cannot run: missing {lacking}")
        return options.tracker_weights

    def _cotracker(self) -> CoTracker:
        device = None if self.placement.device == "auto" else self.placement.device
        return CoTracker(self._weights(), self.options.tracker_python, device)

    def refuse_memory(self, views: ClipViews, queries: GridQueries) -> None:
        """Raise ValueError where a clip like this one takes more memory than is free."""
        size, frames = views.videos[0].size, views.num_frames
        if self.options.needs_model:
            model = placed_config(read_config(self._model), self.placement)
            together = len(views.videos) if self.options.tracker == "own" else 2
            work = Work(encoders_of(model, [None]), together, decodes=False)
            refuse_inference(model, plan_fit(size, model, "pad").model, frames, SamplerOptions(1), self.placement, work)
        memory = free_memory(self.placement.torch_device)
        if self.options.tracker == "mvtap" and memory is not None:
            needed = mvtap_bytes(MVTAPConfig(), len(views.videos), frames, queries.count)
            if needed > memory.device:
                raise ValueError(
                    f"MV-TAP takes about {needed / GIB:.1f} GiB for {len(views.videos)} views of {frames} frames and "
                    f"{queries.count} points, {memory.device / GIB:.1f} GiB are free: use a smaller --grid, or start "
                    "all the same with --ignore-memory"
                )

    def build(self) -> ViewTracker:
        """Read the weights and put them where they are to work."""
        scene = self._scene() if self.options.needs_model else None
        if self.options.tracker == "own":
            return HeadTracker(scene)
        if self.options.tracker == "mvtap":
            return MVTAPTracker(load_mvtap(self._weights(), self.placement.torch_device), CrossViewStarts(scene))
        return CoTrackerTracker(self._cotracker(), CrossViewStarts(scene))

    def _scene(self) -> SceneModel:
        model = placed_config(read_config(self._model), self.placement)
        remember_prompts(model, [None], [], self.placement.encoder_device)
        return SceneModel(place(load_model(self._model), self.placement), self.options.subject_distance)
