# Serves a release on CPUs. Build from the repository's root (BuildKit), mount the release read-only:
#   docker build -f docs/serving.Dockerfile -t safediff-serve .
# With --build-arg TORCH_INDEX=URL torch comes from that index: that of PyTorch's CPU builds saves gigabytes.
#   docker run --read-only --tmpfs /tmp -p 8000:8000 -v "$PWD/serve:/release:ro" safediff-serve
FROM python:3.11-slim AS wheel
# .dockerignore lets in what the wheel is made of
COPY . /src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel /src && cp /src/constraints.txt /wheel

FROM python:3.11-slim
ARG TORCH_INDEX
RUN useradd --create-home --uid 10001 safediff
# torch comes first, so that what is found for it is not replaced by another build
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
        "$(grep '^torch==' /wheel/constraints.txt)" \
    && pip install --no-cache-dir -c /wheel/constraints.txt "$(ls /wheel/*.whl)[serve,sign]"

USER safediff
ENV HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive
EXPOSE 8000
HEALTHCHECK --start-period=60s --interval=10s --timeout=3s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz')"]
# SIGTERM drains: give it as long as --drain-seconds (docker stop --time)
STOPSIGNAL SIGTERM
ENTRYPOINT ["safediff", "serve", "/release", "--host", "0.0.0.0"]
