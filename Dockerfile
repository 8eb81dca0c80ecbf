# The images of Strongroom: web, worker, gateway, keybroker, node-cpu, node-gpu, and postgres.
#
#   docker build --target web --tag strongroom-web:TAG .
#
# Each has the sources that its start command imports (k8s/images/select_sources.py) and the
# distributions that these import (k8s/images/packages/), no compiler, no shell script, and a user
# with a number and no rights. Its root can be read-only: it writes to /tmp, /run/strongroom and
# /var/lib/strongroom. No registry is named here: give the images with theirs where it is needed,
# and with a digest (NAME@sha256:...) to build from the same bytes again.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG POSTGRES_IMAGE=postgres:18-bookworm
# NVIDIA's Triton image, 26.07 or newer; only node-gpu needs it. A name that cannot be pulled: a
# build without the real one fails where it begins.
ARG TRITON_IMAGE=triton-image-must-be-given:none

# ---- What each target is made of -------------------------------------------------------------
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS sources
WORKDIR /build
COPY marketplace/ marketplace/
COPY inference/ inference/
COPY billing/ billing/
COPY sdk/ sdk/
COPY templates/ templates/
COPY static/ static/
COPY manage.py ./
COPY k8s/images/select_sources.py k8s/images/targets.toml k8s/images/
RUN python k8s/images/select_sources.py web /selected/web \
    && python k8s/images/select_sources.py gateway /selected/gateway \
    && python k8s/images/select_sources.py keybroker /selected/keybroker \
    && python k8s/images/select_sources.py node /selected/node

# Distributions: exactly those of a list, in exactly the versions of requirements.txt. Another index
# than pip's own, or a further one (PyTorch without CUDA), is named by pip's own variables.
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS packages
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/strongroom/bin:$PATH
WORKDIR /build
COPY requirements.txt requirements-data.txt ./
COPY k8s/images/packages/ packages/
# Constraints have no extras; the lists name what those bring.
RUN sed 's/\[[^]]*\]//' requirements.txt requirements-data.txt > constraints.txt \
    && python -m venv /opt/strongroom

FROM packages AS packages-web
RUN python -m pip install --no-deps --constraint constraints.txt --requirement packages/web.txt

FROM packages AS packages-gateway
RUN python -m pip install --no-deps --constraint constraints.txt --requirement packages/gateway.txt
# Its metadata: a gateway tells its version.
COPY sdk/ sdk/
RUN python -m pip install --no-deps ./sdk

FROM packages AS packages-keybroker
RUN python -m pip install --no-deps --constraint constraints.txt --requirement packages/keybroker.txt

FROM packages AS packages-node
RUN python -m pip install --no-deps --constraint constraints.txt --requirement packages/node.txt

# ---- What all of ours have in common ---------------------------------------------------------
# hadolint ignore=DL3006
FROM ${PYTHON_IMAGE} AS runtime
ENV PATH=/opt/strongroom/bin:$PATH \
    PYTHONPATH=/app:/app/sdk \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    LOGNAME=strongroom
# Volumes that are mounted there take their mode: whichever number the process runs under, it can
# make a folder of its own there.
RUN install -d -m 1777 /run/strongroom /var/lib/strongroom
WORKDIR /app

FROM runtime AS django
COPY --from=packages-web /opt/strongroom /opt/strongroom
COPY --from=sources /selected/web /app
# The settings want values; none of these is used, and none stays in the image.
RUN STRONGROOM_SECRET_KEY=unused STRONGROOM_WEB_URL=https://unused.example \
    STRONGROOM_GATEWAY_URL=https://unused.example STRONGROOM_DATABASE_URL=postgresql:///unused \
    STRONGROOM_REDIS_URL=redis://unused python manage.py collectstatic --no-input \
    && PYTHONDONTWRITEBYTECODE='' python -m compileall -q /app
ENV STRONGROOM_OBJECTS_DIR=/var/lib/strongroom/objects \
    STRONGROOM_WEB_LISTEN=0.0.0.0:8000 \
    STRONGROOM_STATE_DIR=/tmp/strongroom-state
USER 10001:10001

# ---- Images ----------------------------------------------------------------------------------
FROM django AS web
EXPOSE 8000
CMD ["python", "-m", "marketplace", "web"]

# The schedule too: `python -m marketplace beat`.
FROM django AS worker
CMD ["python", "-m", "marketplace", "worker"]

FROM runtime AS gateway
COPY --from=packages-gateway /opt/strongroom /opt/strongroom
COPY --from=sources /selected/gateway /app
RUN PYTHONDONTWRITEBYTECODE='' python -m compileall -q /app
ENV STRONGROOM_GATEWAY_LISTEN=0.0.0.0:8001
USER 10001:10001
EXPOSE 8001 8002
CMD ["python", "-m", "inference.gateway"]

FROM runtime AS keybroker
COPY --from=packages-keybroker /opt/strongroom /opt/strongroom
COPY --from=sources /selected/keybroker /app
RUN PYTHONDONTWRITEBYTECODE='' python -m compileall -q /app
ENV STRONGROOM_KEYBROKER_LISTEN=0.0.0.0:8443 \
    STRONGROOM_KEYBROKER_KMS_DIR=/var/lib/strongroom/keybroker
USER 10001:10001
EXPOSE 8443
CMD ["python", "-m", "inference.keybroker"]

# Triton out of the nvidia-pytriton wheel: for machines without a GPU, on loopback only.
FROM runtime AS node-cpu
# As process 1 it takes in the children of a Triton that died.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages-node /opt/strongroom /opt/strongroom
COPY --from=sources /selected/node /app
RUN PYTHONDONTWRITEBYTECODE='' python -m compileall -q /app
ENV STRONGROOM_NODE_DIR=/var/lib/strongroom/node \
    STRONGROOM_NODE_RUN_DIR=/run/strongroom/node
USER 10001:10001
CMD ["tini", "--", "python", "-m", "inference.node"]

# hadolint ignore=DL3006
FROM ${TRITON_IMAGE} AS node-gpu
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY k8s/images/check_triton.py /opt/strongroom/
RUN python3 /opt/strongroom/check_triton.py \
    && apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages /build/constraints.txt /build/packages/node.txt /opt/strongroom/
COPY requirements-data.txt /opt/strongroom/
# Into the image's own Python, which its python backend starts. PyTorch comes with its CUDA here, so
# what it needs is not in our list; the scanner's own wishes are not followed. The wheel with the
# embedded Triton stays away.
RUN sed -i '/^nvidia-pytriton$/d; /^modelaudit$/d' /opt/strongroom/node.txt \
    && python3 -m pip install --no-cache-dir --break-system-packages --ignore-installed \
        --constraint /opt/strongroom/constraints.txt --requirement /opt/strongroom/node.txt \
    && python3 -m pip install --no-cache-dir --break-system-packages --no-deps \
        --constraint /opt/strongroom/constraints.txt modelaudit \
    && install -d -m 1777 /run/strongroom /var/lib/strongroom
COPY --from=sources /selected/node /app
ENV PYTHONPATH=/app:/app/sdk \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    LOGNAME=strongroom \
    STRONGROOM_NODE_TRITON_DIR=/opt/tritonserver \
    STRONGROOM_NODE_DIR=/var/lib/strongroom/node \
    STRONGROOM_NODE_RUN_DIR=/run/strongroom/node
WORKDIR /app
USER 10001:10001
# NVIDIA's own is a shell script that prints a banner.
ENTRYPOINT []
CMD ["tini", "--", "python3", "-m", "inference.node"]

# The official image with the one extension that the migrations need and cannot add.
# hadolint ignore=DL3006
FROM ${POSTGRES_IMAGE} AS postgres
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-18-pgvector=0.8.* \
    && rm -rf /var/lib/apt/lists/*
USER 999:999
