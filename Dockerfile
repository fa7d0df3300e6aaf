# Python's slim image for amd64 and arm64, by the digest of its manifest list. Every dependency has a ready-made wheel for both, so
# nothing is compiled.
ARG BASE=python:3.13.15-slim-bookworm@sha256:2325bb286ec344af3e5898cc224b5844e2707ac6e26b1632516fd3edc84a5e26

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The environment of the image has no pip: the pip in /build installs into it.
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/llm-probe-exporter
COPY deploy/requirements.lock deploy/requirements-build.lock deploy/
RUN /build/bin/pip install --require-hashes --only-binary=:all: --requirement deploy/requirements-build.lock \
    && /build/bin/pip --python /opt/llm-probe-exporter/bin/python install \
        --require-hashes --only-binary=:all: --requirement deploy/requirements.lock
COPY . .
RUN mkdir /state
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/pip --python /opt/llm-probe-exporter/bin/python install --no-deps --no-index /wheels/*.whl

FROM ${BASE}
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llm-probe-exporter" \
      org.opencontainers.image.description="Prometheus exporter that probes LLM inference servers as a client would" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/llm-probe-exporter /opt/llm-probe-exporter
# An empty folder for the history of changes and speeds, which belongs to the user that writes it. A volume there keeps the history.
COPY --from=build --chown=65532:65532 /state /var/lib/llm-probe-exporter
# The loopback of a container is its own. So listen on all of its addresses, and publish the port on the host's loopback.
ENV PATH=/opt/llm-probe-exporter/bin:${PATH} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LLM_PROBE_LISTEN=0.0.0.0:9937 \
    STATE_DIRECTORY=/var/lib/llm-probe-exporter
EXPOSE 9937
USER 65532:65532
STOPSIGNAL SIGTERM
# Asks whether the daemon and its scheduler run, and not whether the targets do.
HEALTHCHECK --interval=30s --timeout=10s --start-period=15s --retries=3 CMD ["llm-probe-exporter", "healthcheck"]
ENTRYPOINT ["llm-probe-exporter"]
CMD ["serve"]
