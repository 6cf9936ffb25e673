# Two stages: pip and the sources stay behind. Nothing is compiled; every dependency has a wheel.
FROM python:3.11-slim AS build
COPY pyproject.toml README.md LICENSE /build/
COPY src /build/src
COPY twisted /build/twisted
RUN python -m venv /opt/txgateway \
    && /opt/txgateway/bin/pip install --no-cache-dir /build \
    # Twisted caches its list of plugins beside them; the user below could not write it.
    && /opt/txgateway/bin/twistd --help >/dev/null

FROM python:3.11-slim
COPY --from=build /opt/txgateway /opt/txgateway
ENV PATH=/opt/txgateway/bin:$PATH
USER 10001:10001
WORKDIR /tmp
# The admin port (8001) listens on 127.0.0.1 unless GATEWAY_ADMIN_HOST says otherwise.
EXPOSE 8000
ENTRYPOINT ["twistd", "-n", "--pidfile=", "gateway"]
