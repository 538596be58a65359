"""`python eval/make_manifest.py FOOTAGE_DIR > mvtrack/evaluation/manifest_v1.json`: draw the pinned set anew.

Done once per version: scores of different manifests must not be compared. Raise `VERSION` in
mvtrack/evaluation/manifest.py with every new one.
"""

import sys
from pathlib import Path

from mvtrack.command import run_command
from mvtrack.evaluation.manifest import make_manifest

CLIPS_PER_VIDEO = 24


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write(__doc__ + "\n")
        return 2
    return run_command(_write, "make_manifest")


def _write() -> None:
    videos = sorted(Path(sys.argv[1]).glob("*.mp4"))
    if not videos:
        raise ValueError(f"no .mp4 file in {sys.argv[1]}")
    sys.stdout.write(make_manifest(videos, CLIPS_PER_VIDEO) + "\n")


if __name__ == "__main__":
    sys.exit(main())
