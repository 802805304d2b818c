"""QoS 0, 1 and 2 in both directions, for all three protocol versions on one listener."""

import pytest
from harness.client import V5, V31, V311

VERSIONS = pytest.mark.parametrize("version", [V31, V311, V5], ids=["v31", "v311", "v5"])
QOS = pytest.mark.parametrize("qos", [0, 1, 2])


@pytest.mark.guest
@VERSIONS
@pytest.mark.parametrize("granted", [0, 1, 2])
@QOS
def test_delivery_has_the_lower_qos(connected, name, version, qos, granted):
    """[MQTT-3.8.4-8]: the QoS of a delivery is the minimum of publish and subscription."""
    subscriber = connected(version=version)
    assert subscriber.subscribe(name, qos=granted) == [granted]
    assert connected(version=version).publish(name, b"x", qos) in (0, 0x10)
    message = subscriber.receive()
    assert (message.topic, message.payload, message.qos) == (name, b"x", min(qos, granted))
    assert not message.retain and not message.dup
    subscriber.nothing_more()


@pytest.mark.guest
@pytest.mark.parametrize("publisher_version", [V31, V311, V5], ids=["from31", "from311", "from5"])
@pytest.mark.parametrize("subscriber_version", [V31, V311, V5], ids=["to31", "to311", "to5"])
def test_versions_talk_to_each_other(connected, name, publisher_version, subscriber_version):
    """A message crosses protocol versions with topic, payload and QoS unchanged."""
    subscriber = connected(version=subscriber_version)
    subscriber.subscribe(f"{name}/#", qos=2)
    publisher = connected(version=publisher_version)
    for qos in (0, 1, 2):
        publisher.publish(f"{name}/ä/日本/{qos}", f"q{qos}", qos)
    received = {message.topic: message for message in subscriber.receive_many(3)}
    assert {topic: (m.payload, m.qos) for topic, m in received.items()} == {
        f"{name}/ä/日本/{qos}": (f"q{qos}".encode(), qos) for qos in (0, 1, 2)
    }


@pytest.mark.guest
@VERSIONS
@QOS
def test_order_with_many_in_flight(connected, name, version, qos):
    """[MQTT-4.6.0-6]: messages of one publisher, topic and QoS arrive in the order of their sending."""
    subscriber = connected(version=version)
    subscriber.subscribe(name, qos=qos)
    payloads = [str(number) for number in range(300)]
    connected(version=version).publish_all(name, payloads, qos)
    assert subscriber.payloads(len(payloads)) == payloads
    subscriber.nothing_more()


@QOS
@pytest.mark.parametrize("size", [0, 1, 127, 128, 4096, 16_384, 70_000, 1_000_000])
def test_payload_sizes(connected, name, qos, size):
    """Payloads around every length boundary arrive byte for byte (default maximum: 1 MiB)."""
    payload = bytes((7 * index + 13) % 251 for index in range(size))
    subscriber = connected()
    subscriber.subscribe(name, qos=qos)
    connected().publish(name, payload, qos)
    assert subscriber.receive().payload == payload


@QOS
def test_large_payloads_to_many_subscribers(connected, name, qos):
    """Large messages are delivered whole to each of several subscribers of two versions."""
    subscribers = [connected(version=version) for version in (V311, V5, V311, V5)]
    for subscriber in subscribers:
        subscriber.subscribe(name, qos=qos)
    publisher = connected()
    # One after the other: a burst of QoS 0 beyond a subscriber's output bound may be dropped.
    for payload in (bytes([fill]) * 300_000 for fill in range(10)):
        publisher.publish(name, payload, qos)
        for subscriber in subscribers:
            assert subscriber.receive().payload == payload


@pytest.mark.guest
def test_several_publishers_keep_their_own_order(connected, name):
    """Order is kept for each publisher; between publishers none is promised."""
    subscriber = connected()
    subscriber.subscribe(name, qos=1)
    publishers = [connected(f"p{index}") for index in range(5)]
    sent = {index: [f"{index}:{number}" for number in range(60)] for index in range(5)}
    for number in range(60):
        for index, publisher in enumerate(publishers):
            publisher.send(name, sent[index][number], qos=1)
    received = subscriber.payloads(300)
    for index in range(5):
        assert [payload for payload in received if payload.startswith(f"{index}:")] == sent[index]


def test_a_publisher_receives_its_own_messages(connected, name):
    """Without No Local a client that subscribes to what it publishes gets it back."""
    one = connected()
    one.subscribe(name, qos=2)
    one.publish(name, b"self", qos=2)
    assert one.receive().payload == b"self"


@pytest.mark.guest
@pytest.mark.parametrize("qos", [1, 2])
def test_no_subscriber_is_a_reason_not_an_error(connected, name, qos):
    """A publish that nobody gets is acknowledged with 0x00 or 0x10 [MQTT 5 3.4.2.1]."""
    assert connected().publish(name, b"alone", qos) in (0x00, 0x10)
