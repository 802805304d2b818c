"""Will messages: when they are published, when not, with delay, retained, with properties."""

import pytest
from harness.client import V5, V31, V311

VERSIONS = pytest.mark.parametrize("version", [V31, V311, V5], ids=["v31", "v311", "v5"])


@pytest.fixture
def witness(connected, name):
    """A client that sees every will of the test."""
    one = connected("witness")
    one.subscribe(f"{name}/will", qos=2)
    return one


@pytest.mark.guest
@VERSIONS
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_lost_connection_publishes_it(client, witness, name, version, qos):
    """[MQTT-3.1.2-8]: a network connection that ends without DISCONNECT publishes the will."""
    dying = client(version=version).will(f"{name}/will", b"gone", qos).connect()
    dying.kill()
    message = witness.receive()
    assert (message.payload, message.qos, bool(message.retain)) == (b"gone", qos, False)
    witness.nothing_more()


@pytest.mark.guest
@VERSIONS
def test_a_normal_disconnect_discards_it(client, witness, name, version):
    """[MQTT-3.1.2-10]: DISCONNECT 0x00 removes the will."""
    leaving = client(version=version).will(f"{name}/will", b"gone", 1).connect()
    leaving.disconnect()
    # The same client identifier connects again: the broker has then dealt with the first one's end.
    client(client_id=leaving.client_id, version=version).connect().nothing_more()
    witness.nothing_more()


def test_disconnect_with_will(client, witness, name):
    """DISCONNECT 0x04 asks for the will [MQTT 5 3.14.2.1]."""
    client().will(f"{name}/will", b"asked", 1).connect().disconnect(reason=4)
    assert witness.receive().payload == b"asked"


@VERSIONS
def test_a_retained_will(client, connected, witness, name, version):
    """[MQTT-3.1.2-15]: with Will Retain it is kept as a retained message."""
    client(version=version).will(f"{name}/will", b"state", 1, retain=True).connect().kill()
    assert witness.receive().payload == b"state"
    late = connected()
    late.subscribe(f"{name}/will", qos=1)
    message = late.receive()
    assert message.payload == b"state" and message.retain
    late.publish(f"{name}/will", b"", qos=1, retain=True)


def test_takeover_publishes_it(client, connected, witness, name):
    """[MQTT-3.1.4-3]: the connection that is taken over ends without DISCONNECT, so its will is due."""
    client("same").will(f"{name}/will", b"taken", 1).connect()
    connected("same")
    assert witness.receive().payload == b"taken"


def test_the_delay_is_awaited(client, witness, name):
    """[MQTT-3.1.3-9]: not before Will Delay Interval, and then it comes."""
    dying = client(SessionExpiryInterval=100).will(f"{name}/will", b"late", 1, WillDelayInterval=2).connect()
    dying.kill()
    witness.nothing_more()
    assert witness.receive().payload == b"late"


def test_coming_back_within_the_delay_cancels_it(client, connected, witness, name):
    """[MQTT-3.1.3-9]: a new connection to the session before the delay has passed."""
    dying = client("same", SessionExpiryInterval=100).will(f"{name}/will", b"x", 1, WillDelayInterval=2).connect()
    dying.kill()
    back = connected("same", clean=False, SessionExpiryInterval=0)
    assert back.connack.session_present
    # A second will with the same delay is the clock: had the first been kept, it would come before.
    client("clock", SessionExpiryInterval=100).will(f"{name}/will", b"clock", 1, WillDelayInterval=2).connect().kill()
    assert witness.receive().payload == b"clock"


def test_the_end_of_the_session_ends_the_delay(client, witness, name):
    """[MQTT-3.1.2-8]: the will is published when the session ends, though its delay is longer."""
    client(SessionExpiryInterval=1).will(f"{name}/will", b"end", 1, WillDelayInterval=1000).connect().kill()
    assert witness.receive().payload == b"end"


def test_a_clean_start_ends_the_session_and_publishes_it(client, connected, witness, name):
    """Clean Start discards the session, so that a delayed will is due at once [MQTT 5 3.1.2.5]."""
    client("same", SessionExpiryInterval=1000).will(f"{name}/will", b"old", 1, WillDelayInterval=1000).connect().kill()
    connected("same", clean=True)
    assert witness.receive().payload == b"old"


@pytest.mark.guest
def test_keep_alive_time_out_publishes_it(client, witness, name):
    """[MQTT-3.1.2-22]: after one and a half keep alive intervals of silence the connection is closed."""
    silent = client(keep_alive=1).will(f"{name}/will", b"silent", 1)
    silent.connect()
    silent.paho.loop_stop()  # No thread, no PINGREQ; the socket stays open.
    assert witness.receive().payload == b"silent"


def test_its_properties_are_forwarded(client, witness, name):
    """Will properties become the properties of the PUBLISH."""
    client().will(
        f"{name}/will", b"w", 1, ContentType="text/plain", MessageExpiryInterval=500, PayloadFormatIndicator=1,
        ResponseTopic=f"{name}/r", CorrelationData=b"c", UserProperty=[("k", "v"), ("k", "w")]).connect().kill()
    got = witness.receive().properties
    assert (got.ContentType, got.ResponseTopic, got.CorrelationData) == ("text/plain", f"{name}/r", b"c")
    assert got.UserProperty == [("k", "v"), ("k", "w")] and got.MessageExpiryInterval in (499, 500)
