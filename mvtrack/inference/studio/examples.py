"""Videos to try the studio with: rendered scenes that no training saw, made on first use and then kept.

`python -m mvtrack.inference.studio.examples NAME FILE` makes one in a process of its own.
"""

import sys
from pathlib import Path

from mvtrack.files.atomic_io import beside

FPS = 12.0
_SIZE, _FRAMES = (192, 256), 17
EXAMPLES = {"scene_1": 20_001, "scene_2": 20_003}  # names and seeds, which neither training nor the yardstick uses


def make_example(name: str, file: Path) -> None:
    """Render the reference view of a scene."""
    from mvtrack.data.synthetic.renderer import render
    from mvtrack.data.synthetic.test_scenes import CaseSpec, set_up_case
    from mvtrack.video.writer import write_video

    spec = CaseSpec(EXAMPLES[name], "arc_left", 10.0, start=0.0, size=_SIZE, num_frames=_FRAMES)
    _, scene, cameras, _ = set_up_case(spec)
    rendered = render(scene, cameras[:1])
    aside = beside(file, file.suffix)
    try:
        write_video(aside, rendered.video[0].float() / 127.5 - 1, FPS)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


if __name__ == "__main__":
    make_example(sys.argv[1], Path(sys.argv[2]))
