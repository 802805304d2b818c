"""paho over WebSocket, on the listener beside the TCP one."""

import pytest
from harness.client import V5, V31, V311

VERSIONS = pytest.mark.parametrize("version", [V31, V311, V5], ids=["v31", "v311", "v5"])


@pytest.mark.guest
@VERSIONS
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_both_transports_meet(broker, connected, name, version, qos):
    """A WebSocket client and a TCP client exchange messages in both directions."""
    web = connected(version=version, port=broker.websocket_port, transport="websockets")
    tcp = connected(version=version)
    web.subscribe(f"{name}/web", qos=qos)
    tcp.subscribe(f"{name}/tcp", qos=qos)
    web.publish(f"{name}/tcp", b"from the web", qos)
    tcp.publish(f"{name}/web", b"from tcp", qos)
    assert web.receive().payload == b"from tcp"
    assert tcp.receive().payload == b"from the web"


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, 500_000])
def test_frame_lengths(broker, connected, name, size):
    """Payloads around the three length forms of a WebSocket frame, there and back."""
    web = connected(port=broker.websocket_port, transport="websockets")
    web.subscribe(name, qos=1)
    payload = bytes(index % 253 for index in range(size))
    web.publish(name, payload, qos=1)
    assert web.receive().payload == payload


def test_many_messages(broker, connected, name):
    """Packets may share frames and span them: 500 messages stay whole and in order."""
    web = connected(port=broker.websocket_port, transport="websockets")
    web.subscribe(name, qos=1)
    payloads = [f"{number}-" + "x" * (number % 90) for number in range(500)]
    web.publish_all(name, payloads, qos=1)
    assert web.payloads(500) == payloads


def test_a_will_over_websocket(broker, client, connected, name):
    """A WebSocket connection that breaks publishes its will."""
    witness = connected()
    witness.subscribe(name, qos=1)
    dying = client(port=broker.websocket_port, transport="websockets").will(name, b"gone", 1).connect()
    dying.kill()
    assert witness.receive().payload == b"gone"
