# Two stages: the compiler, pip, its cache and the sources stay behind. Dependencies have wheels; of the gateway, the modules
# on the way of a request are compiled.
FROM python:3.11.14-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY pyproject.toml README.md LICENSE /build/
COPY implementation/compiled.py /build/implementation/compiled.py
COPY src /build/src
COPY twisted /build/twisted
RUN python -m venv /opt/txgateway \
    && TXGATEWAY_COMPILE=1 /opt/txgateway/bin/pip install --no-cache-dir /build \
    # Twisted keeps its list of plugins beside them, where the user below cannot write it.
    && /opt/txgateway/bin/twistd --help >/dev/null \
    && /opt/txgateway/bin/pip uninstall --yes pip setuptools

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="txgateway" \
      org.opencontainers.image.description="An API gateway on Twisted" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/txgateway /opt/txgateway
# Nothing is written at run time: the root file system may be read-only.
ENV PATH=/opt/txgateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /
# Clients; the admin port, which listens on 127.0.0.1 unless GATEWAY_ADMIN_HOST says otherwise.
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
# Asks the admin port, which speaks plain HTTP whatever the clients' port does, and answers while the gateway drains.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; link = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('GATEWAY_ADMIN_PORT', '8001')), timeout=2); link.request('GET', '/health/live'); sys.exit(link.getresponse().status != 200)"]
ENTRYPOINT ["twistd", "-n", "--pidfile=", "gateway"]
