# The laptop's stand-in for a model, for `docker compose` without a key: grounded answers with citations,
# embeddings, quotas. It shares no code with the workers, and no place with production.
ARG BASE=docker.io/library/python:3.12-slim

FROM ${BASE} AS build
COPY requirements/laptop.txt /build/requirements.txt
RUN python3 -m venv /build/pip \
 && python3 -m venv --without-pip /opt/venv \
 && /build/pip/bin/python -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
      --require-hashes --only-binary :all: -r /build/requirements.txt

FROM ${BASE}
COPY --from=build /opt/venv /opt/venv
COPY local/__init__.py local/loopback.py /opt/ragbus/local/
COPY local/llm /opt/ragbus/local/llm
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/ragbus
USER 65532:65532
EXPOSE 8090
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "local.llm", "--host", "0.0.0.0", "--port", "8090"]
