# dmap in a container.  docs/containers.md tells how it was tried.
#
#   docker build -t dmap .
#
# EXTRAS are those of setup.cfg.  BASE is any image with Python 3.11 or newer; for a GPU it brings the
# libraries that the engine's wheel takes, and ENGINE is the line for pip that docs/gpu.md tells.

ARG BASE=docker.io/library/python:3.13-slim-bookworm

FROM ${BASE} AS build
ARG EXTRAS=engine,fleet,otel
ARG ENGINE=""
WORKDIR /src
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY dmap dmap
RUN python3 -m venv /opt/dmap \
    && /opt/dmap/bin/python -m pip install --no-cache-dir --disable-pip-version-check ".[${EXTRAS}]" \
    && if [ -n "${ENGINE}" ]; then /opt/dmap/bin/python -m pip install --no-cache-dir --no-deps --force-reinstall ${ENGINE}; fi

FROM ${BASE}
# A number, so that the host can tell whose files these are without a name for it.
RUN install -d -o 10001 -g 10001 -m 700 /var/lib/dmap && install -d /etc/dmap /models
COPY --from=build /opt/dmap /opt/dmap
ENV PATH=/opt/dmap/bin:$PATH PYTHONFAULTHANDLER=1 HOME=/var/lib/dmap STATE_DIRECTORY=/var/lib/dmap
USER 10001:10001
VOLUME /var/lib/dmap
EXPOSE 8000
# Whoever may reach the port is told whether dmap is ready, and no more, without a key.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
# The main process is dmap itself: it hears SIGTERM, and lets streams end for `server.shutdown_s`.
ENTRYPOINT ["dmap"]
CMD ["serve", "/etc/dmap/config.yaml"]
