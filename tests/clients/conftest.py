"""Fixtures: one shared broker per worker, brokers with a configuration of their own, clients."""

import itertools

import pytest
from harness.broker import Broker, is_ringlane
from harness.client import V5, Client

_names = itertools.count()


def pytest_addoption(parser):
    """The two choices that every stage makes."""
    parser.addoption("--transport", default="auto", help="auto, uring or epoll (Ringlane only)")
    parser.addoption("--cores", default="0", help="cores of the broker, e.g. 0 or 0,1 (Ringlane only)")


def pytest_collection_modifyitems(items):
    """Against Mosquitto, what only Ringlane offers is skipped."""
    if is_ringlane():
        return
    for item in items:
        if item.get_closest_marker("ringlane"):
            item.add_marker(pytest.mark.skip(reason="Ringlane only"))


def make_broker(pytestconfig, directory, overrides=None):
    """A broker with the transport and the cores of this run."""
    return Broker(directory, pytestconfig.getoption("--transport"), pytestconfig.getoption("--cores"), overrides)


@pytest.fixture(scope="session")
def broker(pytestconfig, tmp_path_factory):
    """The shared broker with its defaults: it serves all tests of this worker, then must exit with 0."""
    running = make_broker(pytestconfig, tmp_path_factory.mktemp("broker")).start()
    yield running
    running.stop()


@pytest.fixture
def start_broker(pytestconfig, tmp_path_factory):
    """Starts brokers with overrides, e.g. `start_broker({"mqtt.max_packet_size": 1000})`."""
    started = []

    def start(overrides):
        made = make_broker(pytestconfig, tmp_path_factory.mktemp("broker"), overrides).start()
        started.append(made)
        return made

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def name(request):
    """A word that no other test uses: for topics and client identifiers."""
    worker = getattr(request.config, "workerinput", {}).get("workerid", "main")
    return f"{worker}-{next(_names)}"


@pytest.fixture
def client(broker, name):
    """Makes clients, not yet connected, that are disconnected at the end of the test.

    `client("a")` has a client identifier unique to the test; `port=` chooses another broker.
    """
    made = []
    numbers = itertools.count()

    def make(suffix=None, version=V5, port=None, client_id=None, **options):
        if client_id is None:
            client_id = f"{name}-{suffix or next(numbers)}"
        one = Client(port or broker.port, client_id, version, **options)
        made.append(one)
        return one

    yield make
    for one in made:
        one.disconnect()


@pytest.fixture
def connected(client):
    """As `client`, but connected."""
    return lambda *args, **options: client(*args, **options).connect()
