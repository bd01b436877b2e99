# The coordinator, and the nginx before it: two services of one image. Build from the repository's root:
#   docker build --file deploy/docker/coordinator.Dockerfile --tag gemel-coordinator .
FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# torch first and by its exact version: left to a resolver, it may come with gigabytes of GPU libraries.
RUN python -m venv /opt/gemel \
    && /opt/gemel/bin/pip install --no-cache-dir --constraint constraints.txt \
        --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && /opt/gemel/bin/pip install --no-cache-dir --constraint constraints.txt ".[server,synthetic]"

FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nginx-light postgresql-client \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 gemel \
    && useradd --system --uid 10001 --gid gemel --home-dir /var/lib/gemel --shell /usr/sbin/nologin gemel \
    && install --directory --owner=gemel --group=gemel --mode=0700 /var/lib/gemel/coordinator
COPY --from=build /opt/gemel /opt/gemel
ENV PATH=/opt/gemel/bin:/usr/local/bin:/usr/sbin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    FLWR_TELEMETRY_ENABLED=0 \
    FLWR_DISABLE_UPDATE_CHECK=1
USER 10001:10001
WORKDIR /var/lib/gemel
VOLUME ["/var/lib/gemel/coordinator"]
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s --retries=3 \
    CMD ["gemel", "federation", "status", "/var/lib/gemel/coordinator"]
ENTRYPOINT ["gemel"]
CMD ["federation", "start", "/var/lib/gemel/coordinator"]
