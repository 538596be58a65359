"""Draw a pinned test set anew.

    python eval/make_manifest.py FOOTAGE_DIR > mvtrack/evaluation/manifest_v2.json
    python eval/make_manifest.py --tracking > mvtrack/evaluation/tracking_v1.json

Done once per version: scores of different manifests must not be compared. Extend `VERSIONS` in
mvtrack/evaluation/manifest.py with every new one.
"""

import argparse
import sys
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.evaluation.manifest import make_manifest, make_tracking_manifest

CLIPS_PER_VIDEO = 24


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("footage", nargs="?", type=Path, help="folder of the real videos to cut")
    which.add_argument("--tracking", action="store_true", help="the set of eval/tracking.py")
    options = parser.parse_args()
    return run_command(lambda: _write(options), "make_manifest")


def _write(options: argparse.Namespace) -> None:
    if options.tracking:
        sys.stdout.write(make_tracking_manifest() + "\n")
        return
    videos = sorted(options.footage.glob("*.mp4"))
    if not videos:
        raise ValueError(f"no .mp4 file in {options.footage}")
    sys.stdout.write(make_manifest(videos, CLIPS_PER_VIDEO) + "\n")


if __name__ == "__main__":
    sys.exit(main())
