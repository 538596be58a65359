#!/usr/bin/env bash
# bash benchmarks/gpu_session.sh [--small] [FILE]: what only a GPU can tell, in ten minutes at most: the GPU's tests, a
# full-size forward and training step, videos with each way to offload, a source that is computed once, weights of 8 bits,
# the correlation volumes. Each part has its time and may fail alone. FILE (outputs/gpu_session.json) holds the machine and what every part printed
# last; the last line is one JSON object with `met`. --small: reduced sizes, also where there is no GPU.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
SOURCE=(--layers 4 --frames 21) VOLUMES=(--device cuda) SMALL=()
if [ "${1:-}" = --small ]; then
    SMALL=(--small) SOURCE=(--small) VOLUMES=(--small)
    shift
fi
OUT=${1:-outputs/gpu_session.json}
LOGS=$(mktemp -d)
trap 'rm -rf "$LOGS"' EXIT
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$(dirname "$OUT")"
python -c "import mvtrack, torch" || { echo "activate the environment that mvtrack is installed in" >&2; exit 1; }

part() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2 began=$SECONDS
    shift 2
    echo "== $name, after $SECONDS s" >&2
    timeout --kill-after=10 "$limit" "$@" >"$LOGS/$name.out" 2>"$LOGS/$name.err"
    echo "$name $? $((SECONDS - began))" >>"$LOGS/parts"
    tail -n 1 "$LOGS/$name.out" >&2
}

part tests 120 python -m pytest -q -m gpu -p no:cacheprovider
part full_size 220 python benchmarks/full_size.py "${SMALL[@]}"
part source_cache 60 python benchmarks/source_cache.py "${SOURCE[@]}"
part quantization 60 python benchmarks/quantization.py --cases 1 "${SMALL[@]}"
part correlation 60 python benchmarks/correlation.py "${VOLUMES[@]}"
[ ${#SMALL[@]} -eq 0 ] && part offload 80 python benchmarks/offload.py

python - "$LOGS" "$OUT" <<'PYTHON'
import json
import platform
import sys
from datetime import date
from importlib import metadata
from pathlib import Path

import torch

logs, out = Path(sys.argv[1]), Path(sys.argv[2])
parts = {}
for row in (logs / "parts").read_text().splitlines():
    name, code, seconds = row.split()
    lines = (logs / f"{name}.out").read_text().splitlines() or [""]
    parts[name] = {"code": int(code), "seconds": int(seconds), "last_line": lines[-1]}
    if code != "0":
        parts[name]["errors"] = (logs / f"{name}.err").read_text()[-2000:]
    if lines[-1].startswith("{"):
        parts[name]["last_line"] = json.loads(lines[-1])
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
machine = {"date": str(date.today()), "gpus": gpus, "processor": platform.processor() or platform.machine()}
machine |= {name: metadata.version(name) for name in ("torch", "mvtrack")} | {"cuda": torch.version.cuda}
met = {name: part["code"] in ((0, 5) if name == "tests" and not gpus else (0,)) for name, part in parts.items()}
out.write_text(json.dumps({"machine": machine, "parts": parts}, indent=1))
print(json.dumps({"figures": {name: part["seconds"] for name, part in parts.items()}, "parts_met": met, "met": all(met.values())}))
PYTHON
