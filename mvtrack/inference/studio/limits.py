"""What the studio takes from its users, so that no one of them fills the machine."""

from mvtrack.config.checked import Count, NonNegative, Positive, config
from mvtrack.config.command_line import option


@config
class StudioLimits:
    """Of uploads and of the queue."""

    max_upload_mb: Count = option(2000, "largest file that may be uploaded, in MB", metavar="MB")
    max_frames: Count = option(2000, "most frames of a video", metavar="FRAMES")
    max_pixels: Count = option(3840 * 2160, "most pixels of a frame", metavar="PIXELS")
    max_waiting: Count = option(20, "most jobs that wait in the queue", metavar="JOBS")
    max_waiting_each: Count = option(5, "most jobs of one session that wait", metavar="JOBS")
    max_uploads_each: Count = option(50, "most videos of one session that are kept", metavar="VIDEOS")
    max_hours: Positive = option(12.0, "longest time that a render may be expected to take", metavar="HOURS")
    keep_free_gb: NonNegative = option(1.0, "of the disk, below which nothing is taken any more", metavar="GB")

    @property
    def upload_bytes(self) -> int:
        return self.max_upload_mb * 10**6

    @property
    def keep_free_bytes(self) -> int:
        return int(self.keep_free_gb * 1e9)
