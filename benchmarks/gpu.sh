#!/bin/sh
# Everything worth measuring on a lent GPU, in at most nine minutes, by one command:
#
#     benchmarks/gpu.sh [FOLDER] [OPTIONS of gpu_erase.py]
#
# FOLDER receives gpu_erase.json; default: $OUT, else benchmarks/. The clock (LIMIT_S, 530 seconds)
# starts here: installing, measuring and starting again all lie within it. PYTHON names the
# interpreter; what it lacks is installed beside it into $SITE, from the wheels in $WHEELS (.whl)
# where there are some, else from the package index. An installed torch is never replaced.
#
#     benchmarks/gpu.sh /tmp/tiny --tiny      # small networks, minutes on a processor
set -eu
began=$(date +%s)
limit=${LIMIT_S:-530}
cd "$(dirname "$0")/.."
out=${OUT:-benchmarks}
case ${1:--} in -*) ;; *) out=$1 && shift ;; esac
wheels=${WHEELS:-.whl}
site=${SITE:-/tmp/safediff-site}
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi
fi
export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$out"

left() { echo $((began + limit - $(date +%s))); }

# run_for SECONDS COMMAND...: stopped after so many seconds, or when the limit is reached
run_for() {
  seconds=$1 && shift
  if [ "$seconds" -gt "$(left)" ]; then seconds=$(left); fi
  if [ "$seconds" -le 0 ]; then return 124; fi
  timeout --foreground -k 5 "$seconds" "$@"
}

names="torch diffusers transformers accelerate safetensors onnx onnx_ir onnxruntime onnxscript
  pydantic yaml rich typer tokenizers scipy torchmetrics PIL"
missing=$(run_for 60 "$PYTHON" -c "import sys; from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name) is None))" $names)
if [ -d "$wheels" ]; then
  run_for 180 "$PYTHON" -m pip install --quiet --no-index --no-deps --upgrade --target "$site" \
    "$wheels"/*.whl || echo "gpu.sh: the wheels in $wheels were not installed" >&2
elif [ -n "$missing" ]; then
  missing=$(echo "$missing" | sed 's/onnx_ir/onnx-ir/; s/yaml/pyyaml/; s/PIL/pillow/')
  run_for 180 "$PYTHON" -m pip install --quiet --no-deps --target "$site" $missing ||
    echo "gpu.sh: not installed: $missing" >&2
fi

if command -v nvidia-smi > /dev/null; then
  run_for 20 nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
fi

# Rows are written as they come. A stage that ends the process (75: by itself, 128 and more: by a
# signal) is noted as failed, and the stages after it are measured by a process of their own.
resume=
for attempt in 1 2 3 4 5 6; do
  rc=0
  run_for "$limit" "$PYTHON" benchmarks/gpu_erase.py --out "$out/gpu_erase.json" \
    --budget-s "$(left)" $resume "$@" || rc=$?
  case $rc in
    130) break ;; # Ctrl-C
    75 | 12[89] | 1[3-9]?) resume=--resume && [ "$(left)" -gt 30 ] || break ;;
    *) break ;;
  esac
done
exit "$rc"
