"""Draw a pinned test set anew.

    python eval/make_manifest.py FOOTAGE_DIR > mvtrack/evaluation/manifest_v2.json
    python eval/make_manifest.py --tracking > mvtrack/evaluation/tracking_v1.json

Done once per version: scores of different manifests must not be compared. Extend `VERSIONS` in
mvtrack/evaluation/manifest.py with every new one.
"""

import sys
from pathlib import Path

from mvtrack.config.checked import config
from mvtrack.config.command_line import Command, option, positional, run
from mvtrack.evaluation.manifest import make_manifest, make_tracking_manifest

CLIPS_PER_VIDEO = 24


@config(kw_only=True)
class MakeManifestCommand(Command):
    """Draw a pinned test set anew."""

    footage: Path | None = positional("folder of the real videos to cut", None)
    tracking: bool = option(False, "the set of eval/tracking.py")


def main() -> int:
    return run(MakeManifestCommand, _write, None, "make_manifest")


def _write(options: MakeManifestCommand) -> None:
    if options.tracking == (options.footage is not None):
        raise ValueError("name a folder of videos, or --tracking")
    if options.tracking:
        sys.stdout.write(make_tracking_manifest() + "\n")
        return
    videos = sorted(options.footage.glob("*.mp4"))
    if not videos:
        raise ValueError(f"no .mp4 file in {options.footage}")
    sys.stdout.write(make_manifest(videos, CLIPS_PER_VIDEO) + "\n")


if __name__ == "__main__":
    sys.exit(main())
