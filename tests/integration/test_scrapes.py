"""Scraping a real gateway with many series, while it is at work."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from tests.integration.client import Client
from tests.integration.harness import Gateway, routes

ROUTES = 150
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
OPENMETRICS = (
    "Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,*/*;q=0.1"
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    document = {
        "routes": [
            {"name": f"r{number} {{a=b,50%}} #", "path": f"/r{number}/", "response": {"body": "hello"}}
            for number in range(ROUTES)
        ]
    }
    environment = {**routes(document), "GATEWAY_ACCESS_LOG": "false"}
    with Gateway(tmp_path_factory.mktemp("gateway"), environment) as running:
        touch_all(running)
        yield running


def touch_all(gateway: Gateway) -> None:
    """Every method on every route, one request each."""
    with gateway.client() as client:
        for number in range(ROUTES):
            for method in METHODS:
                client.send(f"{method} /r{number}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
            for _ in METHODS:
                assert client.read_response().status == 200


def scrape(gateway: Gateway) -> dict[str, Metric]:
    response = gateway.admin("/metrics", OPENMETRICS, "Accept-Encoding: gzip")
    content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"
    assert response.header("Content-Type") == content_type
    return parsed(gzip.decompress(response.body))


def parsed(body: bytes) -> dict[str, Metric]:
    assert body.endswith(b"# EOF\n")
    return {family.name: family for family in parse_openmetrics(body.decode("utf-8"))}


def counters(families: dict[str, Metric]) -> dict[tuple[str, ...], float]:
    return {
        (one.name, *(f"{key}={value}" for key, value in sorted(one.labels.items()))): one.value
        for family in families.values()
        if family.type in {"counter", "histogram"}
        for one in family.samples
    }


def test_every_series_is_there(gateway: Gateway) -> None:
    families = scrape(gateway)
    samples = [one for one in families["gateway_requests"].samples if one.labels["route"] != "none"]
    assert {one.labels["route"] for one in samples} == {f"r{number} {{a=b,50%}} #" for number in range(ROUTES)}
    assert len(samples) == ROUTES * len(METHODS)
    assert len(families["gateway_request_duration_seconds"].samples) >= 17 * len(samples)
    assert len(gateway.admin("/metrics").body.splitlines()) > 17 * len(samples)


def test_scrapes_at_once_while_requests_come_in_are_each_consistent(gateway: Gateway) -> None:
    is_over = threading.Event()
    sent = 0

    def work() -> None:
        nonlocal sent
        with gateway.client() as client:
            while not is_over.is_set():
                for method in METHODS:
                    client.send(
                        f"{method} /r{sent % ROUTES}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
                    )
                    assert client.read_response().status == 200
                    sent += 1

    before = counters(scrape(gateway))
    with ThreadPoolExecutor(5) as pool:
        working = pool.submit(work)
        try:
            scrapes = [future.result() for future in [pool.submit(scrape, gateway) for _ in range(8)]]
        finally:
            is_over.set()
        working.result()
    after = counters(scrape(gateway))
    for families in scrapes:
        seen = counters(families)
        assert seen.keys() >= before.keys()
        assert all(before.get(key, 0) <= value <= after[key] for key, value in seen.items())
        for key, value in seen.items():
            if key[0] == "gateway_request_duration_seconds_bucket" and "le=+Inf" in key:
                labels = (label for label in key[1:] if not label.startswith("le="))
                assert seen["gateway_request_duration_seconds_count", *labels] == value
    requests = sum(value for key, value in after.items() if key[0] == "gateway_requests_total")
    assert requests - sum(value for key, value in before.items() if key[0] == "gateway_requests_total") == sent > 0


def test_a_slow_scraper_holds_up_nobody_and_gets_it_all(gateway: Gateway) -> None:
    with Client(gateway.admin_port, receive_bytes=4096) as slow:
        slow.send(
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + OPENMETRICS.encode() + b"\r\n\r\n"
        )
        head = slow.read_head()
        assert head.status == 200
        for number in range(20):
            assert gateway.get(f"/r{number}/").body == b"hello"
        assert counters(scrape(gateway))
        body, _ = slow.read_body(head)
    assert len(counters(parsed(body))) > 17 * ROUTES * len(METHODS)


def test_scrapers_that_leave_half_way_leave_nothing_behind(gateway: Gateway) -> None:
    before = gateway.metric("process_open_fds")
    for _ in range(20):
        with Client(gateway.admin_port, receive_bytes=4096) as client:
            client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.read_head()
    gateway.wait_for_metric("process_open_fds", before)
    assert scrape(gateway)


def test_an_old_client_gets_text_until_the_end(gateway: Gateway) -> None:
    with Client(gateway.admin_port) as client:
        client.send(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n")
        head, body = client.read_to_end().split(b"\r\n\r\n", 1)
    assert re.search(rb"\r\nContent-Type: text/plain; version=0\.0\.4; charset=utf-8\r\n", head)
    text = zlib.decompress(body, 31)
    assert text.endswith(b"\n")
    assert b"\nprocess_max_fds " in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
@pytest.mark.parametrize("fields", [(), ("Accept: text/plain;version=1.0.0;escaping=allow-utf-8",)])
def test_promtool_accepts_what_the_gateway_says(gateway: Gateway, fields: tuple[str, ...]) -> None:
    body = gateway.admin("/metrics", *fields).body
    done = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
