"""Flow control and limits in both directions: receive maximum, topic alias, maximum packet size."""

import pytest
from harness.client import V311, publish_properties


@pytest.mark.guest
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("window", [1, 3, 10])
def test_receive_maximum_of_the_client(connected, name, qos, window):
    """[MQTT-3.3.4-9]: never more unacknowledged PUBLISH packets than the client's Receive Maximum."""
    # Acknowledgements are held back: paho sends PUBCOMP (QoS 2) and PUBACK (QoS 1) only on `ack`.
    subscriber = connected(manual_ack=True, ReceiveMaximum=window)
    subscriber.subscribe(name, qos=qos)
    subscriber.subscribe(f"{name}/fence", qos=0)
    publisher = connected()
    publisher.publish_all(name, [str(number) for number in range(30)], qos)
    received = []
    while len(received) < 30:
        batch = subscriber.receive_many(min(window, 30 - len(received)))
        # QoS 0 is not limited: it shows that the broker had nothing more to send by now.
        publisher.publish(f"{name}/fence", b"", qos=0)
        assert subscriber.receive().topic == f"{name}/fence"
        received += batch
        for message in batch:
            subscriber.ack(message)
    assert [int(message.payload) for message in received] == list(range(30))


def test_qos0_passes_a_full_window(connected, name):
    """QoS 0 messages do not count against Receive Maximum, and pass while the window is full."""
    subscriber = connected(manual_ack=True, ReceiveMaximum=1)
    subscriber.subscribe(f"{name}/1", qos=1)
    subscriber.subscribe(f"{name}/0", qos=0)
    publisher = connected()
    publisher.publish_all(f"{name}/1", ["a", "b", "c"], qos=1)
    first = subscriber.receive()
    for _ in range(5):
        publisher.publish(f"{name}/0", b"free", qos=0)
        assert subscriber.receive().payload == b"free"
    subscriber.ack(first)
    second = subscriber.receive()
    subscriber.ack(second)
    third = subscriber.receive()
    subscriber.ack(third)
    assert [message.payload for message in (first, second, third)] == [b"a", b"b", b"c"]


@pytest.mark.ringlane
def test_the_servers_window_towards_old_clients(start_broker, connected, name):
    """A 3.1.1 client has no Receive Maximum: the configured window holds."""
    broker = start_broker({"mqtt.max_inflight_messages": 4})
    subscriber = connected(port=broker.port, version=V311, manual_ack=True)
    subscriber.subscribe(name, qos=1)
    subscriber.subscribe(f"{name}/fence", qos=0)
    publisher = connected(port=broker.port)
    publisher.publish_all(name, [str(number) for number in range(12)], qos=1)
    for turn in range(3):
        batch = subscriber.receive_many(4)
        publisher.publish(f"{name}/fence", b"", qos=0)
        assert subscriber.receive().topic == f"{name}/fence"
        assert [int(m.payload) for m in batch] == list(range(4 * turn, 4 * turn + 4))
        for message in batch:
            subscriber.ack(message)


@pytest.mark.ringlane
def test_connack_announces_the_limits(start_broker, connected):
    """Receive Maximum, Maximum Packet Size and Topic Alias Maximum of the server are in CONNACK."""
    broker = start_broker(
        {"mqtt.receive_maximum": 77, "mqtt.max_packet_size": 5000, "mqtt.topic_alias_maximum": 9})
    announced = connected(port=broker.port).connack.properties
    assert announced.ReceiveMaximum == 77
    assert announced.MaximumPacketSize == 5000
    assert announced.TopicAliasMaximum == 9


@pytest.mark.guest
def test_topic_aliases_from_the_client(connected, name):
    """[MQTT-3.3.2-12]: an alias stands for its topic until the client maps it anew."""
    subscriber, publisher = connected(), connected()
    subscriber.subscribe(f"{name}/#", qos=1)
    assert publisher.connack.properties.TopicAliasMaximum >= 2
    publisher.publish(f"{name}/a", b"1", qos=1, TopicAlias=1)
    publisher.publish(f"{name}/b", b"2", qos=1, TopicAlias=2)
    publisher.publish("", b"3", qos=1, TopicAlias=1)
    publisher.publish("", b"4", qos=0, TopicAlias=2)
    publisher.publish(f"{name}/c", b"5", qos=1, TopicAlias=1)
    publisher.publish("", b"6", qos=2, TopicAlias=1)
    received = {(message.topic, message.payload) for message in subscriber.receive_many(6)}
    assert received == {
        (f"{name}/a", b"1"), (f"{name}/b", b"2"), (f"{name}/a", b"3"),
        (f"{name}/b", b"4"), (f"{name}/c", b"5"), (f"{name}/c", b"6"),
    }


def test_a_topic_alias_that_was_never_set(connected):
    """An unknown alias with an empty topic ends the connection with 0x82 [MQTT 5 3.3.2.3.4]."""
    client = connected()
    client.paho.publish("", b"x", 0, properties=publish_properties(TopicAlias=1))
    assert client.ended().reason in (0x82, 0x94)


def test_a_topic_alias_above_the_maximum(connected, name):
    """[MQTT-3.3.2-9]: an alias above the server's maximum ends the connection with 0x94."""
    client = connected()
    above = client.connack.properties.TopicAliasMaximum + 1
    client.paho.publish(name, b"x", 0, properties=publish_properties(TopicAlias=above))
    assert client.ended().reason == 0x94


def test_topic_aliases_to_the_client(connected, name):
    """The broker may use aliases up to the client's maximum: an empty topic has a known alias."""
    subscriber = connected(TopicAliasMaximum=3)
    subscriber.subscribe(f"{name}/#", qos=1)
    publisher = connected()
    topics = [f"{name}/{index % 5}" for index in range(40)]
    for topic in topics:
        publisher.send(topic, topic, qos=1)
    known, resolved = {}, []
    for message in subscriber.receive_many(40):
        alias = getattr(message.properties, "TopicAlias", None)
        assert alias is None or 1 <= alias <= 3
        if message.topic and alias:
            known[alias] = message.topic
        resolved.append((message.topic or known[alias], message.payload.decode()))
    assert all(topic == payload for topic, payload in resolved)
    assert sorted(topic for topic, _ in resolved) == sorted(topics)


@pytest.mark.guest
def test_no_aliases_unless_asked_for(connected, name):
    """[MQTT-3.3.2-11]: without Topic Alias Maximum in CONNECT the broker sends no alias."""
    subscriber, publisher = connected(), connected()
    subscriber.subscribe(name, qos=1)
    publisher.publish_all(name, ["x"] * 10, qos=1)
    for message in subscriber.receive_many(10):
        assert message.topic == name and not hasattr(message.properties, "TopicAlias")


@pytest.mark.guest
def test_maximum_packet_size_of_the_client(connected, name):
    """[MQTT-3.1.2-24, -25]: a packet above the client's maximum is not sent, the rest goes on."""
    small = connected(MaximumPacketSize=200)
    small.subscribe(name, qos=1)
    plain = connected()
    plain.subscribe(name, qos=1)
    publisher = connected()
    for payload in ("before", "x" * 500, "after"):
        publisher.publish(name, payload, qos=1)
    assert small.payloads(2) == ["before", "after"]
    assert plain.payloads(3) == ["before", "x" * 500, "after"]


def test_maximum_packet_size_of_the_server(start_broker, connected, name):
    """[MQTT-3.2.2-15]: a packet above the server's maximum ends the connection with 0x95."""
    broker = start_broker({"mqtt.max_packet_size": 1000})
    witness = connected(port=broker.port)
    witness.subscribe(name, qos=1)
    client = connected(port=broker.port)
    assert client.connack.properties.MaximumPacketSize == 1000
    client.publish(name, b"x" * 900, qos=1)
    client.paho.publish(name, b"x" * 2000, 1)  # Its result does not matter: the end may be faster.
    assert client.ended().reason == 0x95
    assert witness.receive().payload == b"x" * 900
    witness.nothing_more()
