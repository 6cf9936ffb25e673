from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from txgateway.transport.tunnel import ByteTunnel
from txgateway.transport.wheel import TICK_S, TimerWheel


class End:
    """Either end: keeps what it is told."""

    write_blocked = False

    def __init__(self) -> None:
        self.told: list[object] = []

    def tunnel_write(self, data: bytes) -> None:
        self.told.append(data)

    write_raw = tunnel_write

    def tunnel_pause(self) -> None:
        self.told.append("pause")

    pause_reading = tunnel_pause

    def tunnel_resume(self) -> None:
        self.told.append("resume")

    resume_reading = tunnel_resume

    def tunnel_close(self) -> None:
        self.told.append("close")

    close_tunnel = tunnel_close

    def reset(self) -> None:
        self.told.append("reset")

    abort = reset


class Scene:
    def __init__(self, idle_s: float = 10.0) -> None:
        self.clock = Clock()
        self.wheel = TimerWheel(self.clock)
        self.client, self.target = End(), End()
        self.ends: list[str | None] = []
        self.tunnel = ByteTunnel(self.client, self.target, idle_s, self.wheel, self.ends.append)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.clock.advance(TICK_S)


def test_bytes_pass_both_ways_and_are_counted() -> None:
    scene = Scene()
    scene.tunnel.from_client(b"abc")
    scene.tunnel.from_target(b"defgh")
    scene.tunnel.from_client(b"i")
    assert scene.target.told == [b"abc", b"i"]
    assert scene.client.told == [b"defgh"]
    assert (scene.tunnel.bytes_in, scene.tunnel.bytes_out) == (4, 5)
    assert scene.ends == []


def test_end_that_takes_no_more_pauses_the_other() -> None:
    scene = Scene()
    scene.tunnel.client_blocked()
    scene.tunnel.client_drained()
    assert (scene.client.told, scene.target.told) == ([], ["pause", "resume"])
    scene.tunnel.target_blocked()
    scene.tunnel.target_drained()
    assert (scene.client.told, scene.target.told) == (["pause", "resume"], ["pause", "resume"])


def test_lost_client_closes_the_target_once() -> None:
    scene = Scene()
    scene.tunnel.client_lost()
    scene.tunnel.client_lost()
    scene.tunnel.target_lost()
    scene.tunnel.cut("LATE")
    assert (scene.client.told, scene.target.told, scene.ends) == ([], ["close"], [None])


def test_lost_target_closes_the_client_once() -> None:
    scene = Scene()
    scene.tunnel.target_lost()
    scene.tunnel.client_lost()
    assert (scene.client.told, scene.target.told, scene.ends) == (["close"], [], [None])


def test_cut_ends_both_at_once() -> None:
    scene = Scene()
    scene.tunnel.cut("SOME_REASON")
    scene.tunnel.client_lost()
    assert (scene.client.told, scene.target.told, scene.ends) == (["reset"], ["reset"], ["SOME_REASON"])


@pytest.mark.parametrize("side", ["from_client", "from_target"])
def test_bytes_either_way_keep_it_open(side: str) -> None:
    scene = Scene(idle_s=10)
    for _ in range(5):
        scene.wait(9)
        getattr(scene.tunnel, side)(b"x")
    assert scene.ends == []
    scene.wait(9.5)
    assert scene.ends == []
    scene.wait(1)
    assert scene.ends == ["UPSTREAM_TIMEOUT"]


@pytest.mark.parametrize("way", ["client_lost", "target_lost"])
def test_ended_tunnel_has_no_deadline(way: str) -> None:
    scene = Scene()
    getattr(scene.tunnel, way)()
    scene.wait(0.2)
    assert scene.clock.getDelayedCalls() == []
    scene.wait(60)
    assert scene.ends == [None]
