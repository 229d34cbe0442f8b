# Serves a release on an NVIDIA GPU (x86-64, CUDA 13): ONNX Runtime's CUDA provider, and TensorRT plans.
# Build from the repository's root (BuildKit), mount the release read-only:
#   docker build -f docs/serving-gpu.Dockerfile -t safediff-serve-gpu .
#   docker run --gpus all --read-only --tmpfs /tmp -p 8000:8000 -v "$PWD/serve:/release:ro" safediff-serve-gpu
# Build with --build-arg PLANS=trt-rtx for plans of TensorRT-RTX, PLANS=sign for none. A plan is opened
# by the very version that built it: pin it with --build-arg PLAN_VERSION=tensorrt-cu13==10.16.1.11.
FROM python:3.11-slim AS wheel
# .dockerignore lets in what the wheel is made of
COPY . /src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel /src && cp /src/constraints.txt /wheel

FROM python:3.11-slim
ARG PLANS=trt
ARG PLAN_VERSION=
RUN useradd --create-home --uid 10001 safediff
# torch's own libraries of CUDA and cuDNN are those that ONNX Runtime finds loaded. onnxruntime and
# onnxruntime-gpu are one module: the second comes last, in the place of the first
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir -c /wheel/constraints.txt torch \
    && pip install --no-cache-dir -c /wheel/constraints.txt "$(ls /wheel/*.whl)[serve,sign,${PLANS}]" ${PLAN_VERSION} \
    && pip uninstall --yes onnxruntime \
    && pip install --no-cache-dir -c /wheel/constraints.txt onnxruntime-gpu==1.31.1

USER safediff
ENV HF_HUB_OFFLINE=1
EXPOSE 8000
HEALTHCHECK --start-period=180s --interval=10s --timeout=3s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz')"]
# SIGTERM drains: give it as long as --drain-seconds (docker stop --time)
STOPSIGNAL SIGTERM
ENTRYPOINT ["safediff", "serve", "/release", "--host", "0.0.0.0"]
# what stands behind the image's name on the command line takes this one's place: a plan of the release
# with --engine engines/NAME.plan, or --engine auto --public-key KEY. Without either the CPU is refused
CMD ["--provider", "CUDAExecutionProvider"]
