#!/bin/sh
# Everything worth measuring on a lent GPU, in at most nine minutes, by one command:
#
#     benchmarks/gpu.sh [FOLDER]
#
# FOLDER receives gpu_erase.json; default: $OUT, else benchmarks/. PYTHON names the
# interpreter; what it lacks is installed beside it into $SITE, from the wheels in $WHEELS (.whl)
# where there are some, else from the package index. An installed torch is never replaced.
set -eu
cd "$(dirname "$0")/.."
out=${1:-${OUT:-benchmarks}}
wheels=${WHEELS:-.whl}
site=${SITE:-/tmp/safediff-site}
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; fi
fi
export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$out"

missing=
for name in torch diffusers transformers accelerate safetensors onnx onnx_ir onnxruntime \
    onnxscript pydantic yaml rich typer tokenizers scipy torchmetrics PIL; do
  "$PYTHON" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$name') is None)" ||
    missing="$missing $name"
done
if [ -d "$wheels" ]; then
  "$PYTHON" -m pip install --quiet --no-index --no-deps --upgrade --target "$site" "$wheels"/*.whl
elif [ -n "$missing" ]; then
  missing=$(echo "$missing" | sed 's/onnx_ir/onnx-ir/; s/yaml/pyyaml/; s/PIL/pillow/')
  "$PYTHON" -m pip install --quiet --no-deps --target "$site" $missing
fi

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || true
# Stages are begun within the budget; what one takes too long is cut off. Rows are written as they come.
exec timeout "${LIMIT_S:-530}" "$PYTHON" benchmarks/gpu_erase.py --out "$out/gpu_erase.json" --budget-s "${BUDGET_S:-440}"
