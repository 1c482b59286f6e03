# The service:  docker build -t pointsman .
#
# Everything comes as wheels, so that no stage needs a compiler; the last one has neither pip nor the sources.
FROM python:3.11-slim AS wheels

COPY . /source
RUN python -m venv /pointsman \
 && /pointsman/bin/pip install --no-cache-dir --only-binary :all: -c /source/constraints.txt "/source[otel]" \
 && /pointsman/bin/pip uninstall --yes pip

FROM python:3.11-slim

RUN useradd --system --uid 10001 --no-create-home pointsman
COPY --from=wheels /pointsman /pointsman

ENV PATH=/pointsman/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    POINTSMAN_HOST=0.0.0.0 \
    POINTSMAN_PORT=8080 \
    POINTSMAN_LOG_FORMAT=json

USER 10001
WORKDIR /tmp
EXPOSE 8080
STOPSIGNAL SIGTERM

HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"POINTSMAN_PORT\"]}/livez', timeout=2)"]

ENTRYPOINT ["pointsman"]
CMD ["serve"]
