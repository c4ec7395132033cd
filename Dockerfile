# The image of the server, for CPUs or for NVIDIA's GPUs (CUDA comes with the packages, the driver
# from the host). It runs as nobody in particular, writes no file, and holds no compiler and no torch.
#
#   docker build --build-arg DEVICE=cpu --tag attendant .        DEVICE: cpu or cuda
#                --build-arg MODELS=none                         MODELS: default, or none: mount /models
#                --build-arg EXTRAS=otel,batch                   EXTRAS: of pyproject.toml, or empty
#
# Any base with Python 3.11 or newer and its venv will do. Where packages do not come from PyPI, the
# secret `pip` is a pip.conf, and the secret `ca` the authorities that it may name as
# /run/secrets/ca.

ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS packages
ARG DEVICE=cpu
# Spans by default; batch is Parquet, which takes 150 MB.
ARG EXTRAS=otel
WORKDIR /build
# The environment that is kept has no pip: another one installs into it.
RUN python3 -m venv /installer && python3 -m venv --without-pip /opt/attendant/.venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY attendant attendant
RUN --mount=type=secret,id=pip --mount=type=secret,id=ca \
    case "$DEVICE" in cpu) extra=cpu ;; cuda) extra=gpu ;; \
        *) echo "DEVICE is cpu or cuda" >&2; exit 1 ;; esac \
    && PIP_CONFIG_FILE=/run/secrets/pip /installer/bin/pip --python /opt/attendant/.venv/bin/python \
        install --no-cache-dir --constraint constraints.txt ".[$extra${EXTRAS:+,$EXTRAS}]"
COPY LICENSE /opt/attendant/
COPY bin/attendant-server bin/attendant-batch /opt/attendant/bin/
COPY service /opt/attendant/service
COPY batch /opt/attendant/batch
# Byte code is made here: the file system is read-only later.
RUN python3 -m compileall -q /opt/attendant/service /opt/attendant/batch
ARG MODELS=default
# By name: others that were exported there do not go along.
COPY models/captions-en-de /models/captions-en-de
COPY models/cifar10 /models/cifar10
RUN case "$MODELS" in default) ;; none) rm -r /models/* ;; \
    *) echo "MODELS is default or none" >&2; exit 1 ;; esac

FROM ${BASE_IMAGE}
COPY --from=packages /opt/attendant /opt/attendant
COPY --from=packages /models /models
ENV PATH=/opt/attendant/bin:/opt/attendant/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    ATTENDANT_HOST=0.0.0.0 \
    ATTENDANT_MODELS=/models
USER 10001:10001
WORKDIR /
EXPOSE 50051 8080
STOPSIGNAL SIGTERM
# Ready, not merely alive. With TLS or another port it needs the flags or ATTENDANT_TARGET that a
# caller needs; Kubernetes has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["attendant", "health"]
ENTRYPOINT ["attendant-server"]
