#!/bin/sh
# Everything worth measuring on a lent GPU, in at most nine minutes, by one command:
#
#     benchmarks/gpu.sh [FOLDER] [OPTIONS of gpu_erase.py]
#
# FOLDER receives gpu_erase.json; default: $OUT, else benchmarks/. The clock (LIMIT_S, 530 seconds)
# starts here: installing, measuring and starting again all lie within it. PYTHON names the
# interpreter; what it lacks is installed into an environment in $SITE that sees its packages, from
# the wheels in $WHEELS (.whl) where there are some, else, with what that needs, from the package
# index. An installed torch is never replaced.
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
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$out"

left() { echo $((began + limit - $(date +%s))); }

# run_for SECONDS COMMAND...: stopped after so many seconds, or when the limit is reached
run_for() {
  seconds=$1 && shift
  if [ "$seconds" -gt "$(left)" ]; then seconds=$(left); fi
  if [ "$seconds" -le 0 ]; then return 124; fi
  timeout --foreground -k 5 "$seconds" "$@"
}

# install WHAT...: by the interpreter's own pip. An environment sees the packages of the Python that
# it was made from; those of an environment that PYTHON is of are named to it.
install() {
  run_for 60 "$PYTHON" -m venv --system-site-packages --without-pip "$site" || return
  purelib=$("$site/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
  "$PYTHON" -c "import sys; print(*(p for p in sys.path if p.endswith('-packages')), sep='\n')" \
    > "$purelib/beside.pth" || return
  PYTHON=$site/bin/python
  run_for 180 "$PYTHON" -m pip install --quiet "$@"
}

names="torch diffusers transformers accelerate safetensors onnx onnx_ir onnxruntime onnxscript
  pydantic yaml rich typer tokenizers scipy torchmetrics PIL"
missing=$(run_for 60 "$PYTHON" -c "import sys; from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name) is None))" $names)
if [ -d "$wheels" ]; then
  install --no-index --no-deps "$wheels"/*.whl ||
    echo "gpu.sh: the wheels in $wheels were not installed" >&2
elif [ -n "$missing" ]; then
  missing=$(echo "$missing" | sed 's/onnx_ir/onnx-ir/; s/yaml/pyyaml/; s/PIL/pillow/')
  install $missing || echo "gpu.sh: not installed: $missing" >&2
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
