#!/bin/sh
# Checks that folders of `safediff export --onnx --full` draw in optimum's ONNX pipelines what they
# draw in diffusers. optimum-onnx needs transformers 4, safediff transformers 5: hence an environment
# of its own (VENV, .venv-optimum if not given), about 2 GB with the CPU build of torch.
#   scripts/check_optimum.sh FOLDER... [--out FILE.json]
set -eu
venv=${VENV:-.venv-optimum}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet "torch==2.13.0" "optimum==2.1.0" \
        "optimum-onnx==0.1.0" "transformers==4.57.6" "diffusers==0.39.0" onnxruntime
fi
exec "$venv/bin/python" "$(dirname "$0")/check_optimum.py" "$@"
