#!/bin/sh
# Checks that a folder of `safediff export --onnx --full` loads in optimum's ONNX pipelines.
# optimum-onnx needs transformers 4, safediff transformers 5: hence an environment of its own,
# about 2 GB with the CPU build of torch.
#   scripts/check_optimum.sh FOLDER [VENV]
set -eu
folder=$1
venv=${2:-.venv-optimum}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet torch "optimum==2.1.0" "optimum-onnx==0.1.0" \
        "transformers==4.57.6" "diffusers==0.39.0" onnxruntime
fi
exec "$venv/bin/python" "$(dirname "$0")/check_optimum.py" "$folder"
