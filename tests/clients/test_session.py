"""Sessions: takeover, resume, expiry, and what waits for a client that is away."""

import pytest
from harness.client import V5, V31, V311
from harness.deadline import PATIENCE, wait_until

FOREVER = 0xFFFFFFFF
VERSIONS = pytest.mark.parametrize("version", [V31, V311, V5], ids=["v31", "v311", "v5"])


def keeping(version):
    """CONNECT options of a session that outlives its connection."""
    return {"version": version, "clean": False, **({"SessionExpiryInterval": FOREVER} if version == V5 else {})}


@pytest.fixture
def forget(connected):
    """Ends the session of a client identifier for good."""
    return lambda client_id: connected(client_id=client_id, clean=True).disconnect()


@pytest.mark.guest
@VERSIONS
@pytest.mark.parametrize("qos", [1, 2])
def test_messages_wait_for_an_absent_client(connected, forget, name, version, qos):
    """[MQTT-4.1.0-1]: QoS 1 and 2 messages are kept while the client is away, in order."""
    away = connected("away", **keeping(version))
    assert not away.connack.session_present
    away.subscribe(name, qos=2)
    away.disconnect()
    payloads = [str(number) for number in range(50)]
    connected().publish_all(name, payloads, qos)
    back = connected("away", **keeping(version))
    assert back.connack.session_present or version == V31  # 3.1 has no such flag.
    assert back.payloads(50) == payloads
    back.nothing_more()
    forget(back.client_id)


@VERSIONS
def test_subscriptions_survive(connected, forget, name, version):
    """A resumed session needs no new SUBSCRIBE."""
    connected("c", **keeping(version)).subscribe(name, qos=1)
    back = connected("c", **keeping(version))
    assert back.connack.session_present or version == V31
    connected().publish(name, b"still", qos=1)
    assert back.receive().payload == b"still"
    forget(back.client_id)


@pytest.mark.guest
@VERSIONS
def test_clean_start_forgets(connected, forget, name, version):
    """[MQTT-3.1.2-4]: a clean start discards subscriptions and waiting messages."""
    first = connected("c", **keeping(version))
    first.subscribe(name, qos=1)
    first.disconnect()
    connected().publish(name, b"waiting", qos=1)
    clean = connected("c", version=version, clean=True)
    assert not clean.connack.session_present
    clean.nothing_more()
    connected().publish(name, b"later", qos=1)
    clean.nothing_more()
    clean.disconnect()
    after = connected("c", **keeping(version))
    assert not after.connack.session_present
    forget(after.client_id)


@pytest.mark.guest
@VERSIONS
def test_takeover(connected, name, version):
    """[MQTT-3.1.4-3]: the older connection is closed, in MQTT 5 with DISCONNECT 0x8E."""
    old = connected("same", version=version)
    old.subscribe(name, qos=1)
    new = connected("same", version=version)
    assert old.ended().reason == (0x8E if version == V5 else None)
    new.subscribe(name, qos=1)
    new.publish(name, b"mine", qos=1)
    assert new.receive().payload == b"mine"
    new.nothing_more()


@pytest.mark.guest
def test_takeover_keeps_the_session(connected, forget, name):
    """A takeover without Clean Start goes on with subscriptions and unacknowledged messages."""
    old = connected("same", clean=False, manual_ack=True, SessionExpiryInterval=FOREVER)
    old.subscribe(name, qos=1)
    publisher = connected()
    publisher.publish_all(name, ["0", "1", "2"], qos=1)
    assert old.payloads(3) == ["0", "1", "2"]
    new = connected("same", clean=False, SessionExpiryInterval=FOREVER)
    assert new.connack.session_present
    again = new.receive_many(3)
    assert [(m.payload, bool(m.dup)) for m in again] == [(b"0", True), (b"1", True), (b"2", True)]
    publisher.publish(name, b"3", qos=1)
    assert new.receive().payload == b"3"
    forget(new.client_id)


def test_takeover_again_and_again(connected, forget, name):
    """Twenty takeovers while messages flow: every message arrives, on each connection in order."""
    publisher = connected("publisher")
    connections = [connected("same", clean=False, SessionExpiryInterval=FOREVER)]
    connections[0].subscribe(name, qos=1)
    for turn in range(20):
        for number in range(10):
            publisher.send(name, str(turn * 10 + number), qos=1)
        connections.append(connected("same", clean=False, SessionExpiryInterval=FOREVER))
        assert connections[-1].connack.session_present
        assert connections[-2].ended().reason == 0x8E
    publisher.publish(name, b"200", qos=1)
    last = []
    while not last or last[-1] != 200:
        last.append(int(connections[-1].receive().payload))
    earlier = [[int(m.payload) for m in connection.messages.queue] for connection in connections[:-1]]
    for numbers in [*earlier, last]:
        assert numbers == sorted(numbers)
    assert set(last).union(*earlier) == set(range(201))
    forget(connections[-1].client_id)


def test_the_session_expires(connected, client):
    """[MQTT-3.1.2-23]: after Session Expiry Interval the session is gone."""
    connected("c", SessionExpiryInterval=1).disconnect()

    def gone():
        probe = client("c", clean=False, SessionExpiryInterval=0)
        present = probe.connect().connack.session_present
        probe.disconnect()
        return not present or None

    # Looking is itself a connection with expiry 0: the first look may find it, none after that.
    wait_until(gone, "the session expires", PATIENCE, 0.2)


def test_an_expired_session_has_no_messages(connected, name):
    """What waited for a session goes with it."""
    first = connected("c", SessionExpiryInterval=1)
    first.subscribe(name, qos=1)
    first.disconnect()
    publisher = connected()
    assert publisher.publish(name, b"x", qos=1) == 0
    wait_until(lambda: publisher.publish(name, b"x", qos=1) == 0x10, "no subscription is left", PATIENCE, 0.2)
    back = connected("c", clean=False, SessionExpiryInterval=0)
    assert not back.connack.session_present
    back.nothing_more()


def test_expiry_zero_ends_with_the_connection(connected, name):
    """Without Session Expiry Interval the session ends with the connection [MQTT 5 3.1.2.11.2]."""
    connected("c", clean=False).disconnect()
    assert not connected("c", clean=False).connack.session_present


def test_disconnect_can_change_the_expiry(connected, forget):
    """Session Expiry Interval in DISCONNECT replaces the one of CONNECT [MQTT 5 3.14.2.2.2]."""
    connected("c", SessionExpiryInterval=100).disconnect(reason=0, SessionExpiryInterval=0)
    back = connected("c", clean=False, SessionExpiryInterval=100)
    assert not back.connack.session_present
    back.disconnect(reason=0, SessionExpiryInterval=200)
    again = connected("c", clean=False)
    assert again.connack.session_present
    forget(again.client_id)


@pytest.mark.guest
def test_unacknowledged_messages_come_again(connected, forget, name):
    """[MQTT-4.4.0-1]: what was not acknowledged is sent again with DUP, under the same identifier."""
    first = connected("c", clean=False, manual_ack=True, SessionExpiryInterval=FOREVER)
    first.subscribe(name, qos=1)
    connected().publish_all(name, [str(number) for number in range(5)], qos=1)
    before = first.receive_many(5)
    first.ack(before[0])
    first.ack(before[1])
    first.disconnect()
    second = connected("c", clean=False, SessionExpiryInterval=FOREVER)
    after = second.receive_many(3)
    assert [(m.payload, m.mid, bool(m.dup)) for m in after] == [(m.payload, m.mid, True) for m in before[2:]]
    second.nothing_more()
    forget(second.client_id)


def test_a_session_moves_between_versions(connected, forget, name):
    """A session begun with 3.1.1 can be resumed with MQTT 5, and the other way round."""
    old = connected("c", version=V311, clean=False)
    old.subscribe(name, qos=1)
    old.disconnect()
    connected().publish(name, b"one", qos=1)
    new = connected("c", clean=False, SessionExpiryInterval=FOREVER)
    assert new.connack.session_present and new.receive().payload == b"one"
    new.disconnect()
    connected().publish(name, b"two", qos=1)
    old = connected("c", version=V311, clean=False)
    assert old.connack.session_present and old.receive().payload == b"two"
    forget(old.client_id)


def test_qos0_does_not_wait(connected, forget, name):
    """QoS 0 messages are not kept for an absent client."""
    away = connected("c", clean=False, SessionExpiryInterval=FOREVER)
    away.subscribe(name, qos=1)
    away.disconnect()
    publisher = connected()
    publisher.publish(name, b"0", qos=0)
    publisher.publish(name, b"1", qos=1)
    back = connected("c", clean=False, SessionExpiryInterval=FOREVER)
    received = back.receive()
    if received.payload == b"0":  # [MQTT-3.1.2.4]: keeping QoS 0 is allowed.
        received = back.receive()
    assert received.payload == b"1"
    forget(back.client_id)
