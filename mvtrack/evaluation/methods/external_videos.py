"""Videos that another program generated, as a row of a table: one file, or one folder of images, a case."""

from dataclasses import dataclass
from pathlib import Path

from mvtrack.evaluation.interface import Method, Skipped, failed
from mvtrack.video.reader import VIDEO_SUFFIXES


@dataclass(frozen=True)
class ExternalVideos(Method):
    """folder: holds <case>.mp4 (any video suffix), <case>/ with images, or <case>/video.mp4, as `reshoot` writes it.

    resize: scale videos of another size to the benchmark's instead of refusing them.
    """

    name: str
    title: str
    folder: Path
    resize: bool = False
    backbone: str | None = None
    group: str = "Models"

    @property
    def settings(self) -> dict:
        return {"resize": self.resize}

    @property
    def origin(self) -> dict:
        return {"kind": "videos", "folder": str(self.folder.resolve())}

    @property
    def footnotes(self) -> tuple[str, ...]:
        return (f"{self.title}: videos resized to the benchmark's size.",) if self.resize else ()

    def find(self, key: str) -> Path | Skipped | None:
        files = [self.folder / f"{key}{suffix}" for suffix in sorted(VIDEO_SUFFIXES)]
        there = [p for p in (*files, self.folder / key / "video.mp4") if p.is_file()]
        if not there and (self.folder / key).is_dir():
            there = [self.folder / key]
        if len(there) > 1:
            return failed(f"{there[0]} and {there[1].name} both could be the video of {key}: keep one")
        return there[0] if there else failed(f"no video of this case: {self.folder / key}.mp4 does not exist")
