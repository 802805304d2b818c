"""mosquitto_pub, mosquitto_sub and mosquitto_rr, as a newcomer or an operator types them."""

import queue
import shutil
import subprocess
import threading

import pytest
from harness.deadline import PATIENCE

pytestmark = pytest.mark.skipif(shutil.which("mosquitto_sub") is None, reason="mosquitto-clients not installed")

VERSIONS = pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "mqttv5"])
TIMEOUT = str(int(PATIENCE))


class Subscriber:
    """A running mosquitto_sub; `-d` tells when the subscription stands. Several may share `lines`."""

    def __init__(self, port, *arguments, lines=None):
        self.process = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-d", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines = lines or queue.Queue()
        self.subscribed = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        assert self.subscribed.wait(PATIENCE), f"no SUBACK: {list(self.lines.queue)}"

    def _read(self):
        for line in self.process.stdout:
            if line.startswith("Subscribed"):
                self.subscribed.set()
            elif not line.startswith("Client "):
                self.lines.put(line.rstrip("\n"))

    def line(self):
        """The next line that is not debug text."""
        return self.lines.get(timeout=PATIENCE)

    def kill(self):
        """Ends it as a crash does."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def subscribe(broker):
    """Starts subscribers that are ended with the test."""
    started = []

    def start(*arguments, lines=None):
        started.append(Subscriber(broker.port, *arguments, lines=lines))
        return started[-1]

    yield start
    for one in started:
        one.kill()


@pytest.fixture
def run(broker):
    """Runs a client to its end, asserts exit code 0 and returns its standard output."""

    def call(program, *arguments, stdin=None):
        done = subprocess.run(
            [program, "-h", "127.0.0.1", "-p", str(broker.port), *arguments],
            input=stdin, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
        assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
        assert done.stderr == ""
        return done.stdout

    return call


@pytest.mark.guest
def test_the_first_steps(subscribe, run, name):
    """The two lines of the README."""
    subscriber = subscribe("-t", f"{name}/#", "-v")
    run("mosquitto_pub", "-t", f"{name}/hello", "-m", "hi")
    assert subscriber.line() == f"{name}/hello hi"


@pytest.mark.guest
@VERSIONS
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_versions_and_qos(subscribe, run, name, version, qos):
    """Every version and QoS, the QoS shown by the subscriber."""
    subscriber = subscribe("-V", version, "-q", qos, "-t", name, "-F", "%t|%q|%r|%p")
    run("mosquitto_pub", "-V", version, "-q", qos, "-t", name, "-m", "größe")
    assert subscriber.line() == f"{name}|{qos}|0|größe"


@pytest.mark.guest
def test_retained(subscribe, run, name):
    """-r keeps, -r -n clears, --retained-only and --remove-retained read and remove."""
    for key in ("a", "b"):
        run("mosquitto_pub", "-t", f"{name}/{key}", "-m", f"kept {key}", "-r", "-q", "1")
    shown = run("mosquitto_sub", "-t", f"{name}/+", "-C", "2", "-W", TIMEOUT, "-F", "%r %t %p", "-q", "1")
    assert sorted(shown.splitlines()) == [f"1 {name}/a kept a", f"1 {name}/b kept b"]
    run("mosquitto_pub", "-t", f"{name}/a", "-r", "-n", "-q", "1")
    witness = subscribe("-t", f"{name}/+", "-F", "%r%p", "-q", "1")
    assert witness.line() == "1kept b"
    assert subscribe("-t", f"{name}/+", "--remove-retained", "-F", "%p", "-q", "1").line() == "kept b"
    assert witness.line() == "0"
    late = subscribe("-t", f"{name}/+", "-F", "%r%p", "-q", "1")
    run("mosquitto_pub", "-t", f"{name}/c", "-m", "live", "-q", "1")
    assert late.line() == "0live"


@pytest.mark.guest
@VERSIONS
def test_will(subscribe, name, version):
    """--will-*: a client that is killed leaves its will."""
    witness = subscribe("-t", f"{name}/will", "-F", "%q %r %p", "-q", "2")
    dying = subscribe(
        "-V", version, "-t", f"{name}/other", "--will-topic", f"{name}/will", "--will-payload", "I am gone",
        "--will-qos", "1")
    dying.kill()
    assert witness.line() == "1 0 I am gone"


@pytest.mark.guest
def test_properties(subscribe, run, name):
    """-D publish properties reach `-F %P %C %R %D %F %E`, user properties in order."""
    subscriber = subscribe("-V", "mqttv5", "-q", "1", "-t", name, "-F", "%C|%R|%D|%F|%P|%p")
    run("mosquitto_pub", "-V", "mqttv5", "-q", "1", "-t", name, "-m", "42",
        "-D", "publish", "content-type", "text/plain", "-D", "publish", "response-topic", f"{name}/re",
        "-D", "publish", "correlation-data", "id7", "-D", "publish", "payload-format-indicator", "1",
        "-D", "publish", "user-property", "b", "2", "-D", "publish", "user-property", "a", "1")
    assert subscriber.line() == f"text/plain|{name}/re|id7|1|b:2 a:1|42"


def test_subscription_identifier_and_expiry(subscribe, run, name):
    """-D subscribe subscription-identifier comes back as %S, the expiry interval as %E."""
    subscriber = subscribe(
        "-V", "mqttv5", "-t", name, "-D", "subscribe", "subscription-identifier", "42", "-F", "%S %E %p")
    run("mosquitto_pub", "-V", "mqttv5", "-t", name, "-m", "x", "-D", "publish", "message-expiry-interval", "600")
    assert subscriber.line() in ("42 600 x", "42 599 x")


@pytest.mark.guest
@VERSIONS
def test_a_persistent_session(run, name, version):
    """-c -i ID -q 1: what is published while the subscriber is away comes when it returns."""
    session = ("-V", version, "-c", "-i", f"{name}-c", "-q", "1", "-t", name)
    run("mosquitto_sub", *session, "-E")
    for number in range(5):
        run("mosquitto_pub", "-t", name, "-q", "1", "-m", f"n{number}")
    shown = run("mosquitto_sub", *session, "-C", "5", "-W", TIMEOUT)
    assert shown.splitlines() == [f"n{number}" for number in range(5)]
    run("mosquitto_pub", "-i", f"{name}-c", "-V", version, "-t", name, "-n")  # A clean start ends the session.


@pytest.mark.guest
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_lines_from_standard_input(subscribe, run, name, qos):
    """-l publishes a thousand lines over one connection: all arrive, in order."""
    subscriber = subscribe("-t", name, "-q", qos)
    lines = [f"line {number}" for number in range(1000)]
    run("mosquitto_pub", "-t", name, "-q", qos, "-l", stdin="\n".join(lines) + "\n")
    assert [subscriber.line() for _ in lines] == lines


def test_a_file(subscribe, run, name, tmp_path):
    """-f sends a file, -s what comes from standard input, as one message."""
    subscriber = subscribe("-t", name, "-F", "%l")
    path = tmp_path / "payload"
    path.write_bytes(bytes(range(256)) * 2000)
    run("mosquitto_pub", "-t", name, "-f", str(path), "-q", "1")
    run("mosquitto_pub", "-t", name, "-s", "-q", "1", stdin="x" * 70_000)
    assert (subscriber.line(), subscriber.line()) == ("512000", "70000")


def test_a_url(broker, name):
    """-L mqtt://host:port/topic."""
    url = f"mqtt://127.0.0.1:{broker.port}/{name}"
    subprocess.run(["mosquitto_pub", "-L", url, "-m", "by url", "-r", "-q", "1"], check=True, timeout=PATIENCE)
    shown = subprocess.run(
        ["mosquitto_sub", "-L", url, "-C", "1", "-W", TIMEOUT], check=True, capture_output=True, text=True,
        timeout=2 * PATIENCE)
    assert shown.stdout == "by url\n"
    subprocess.run(["mosquitto_pub", "-L", url, "-n", "-r", "-q", "1"], check=True, timeout=PATIENCE)


@pytest.mark.guest
def test_request_and_response(subscribe, run, name):
    """mosquitto_rr asks, a subscriber that knows the response topic answers."""
    asked = subscribe("-V", "mqttv5", "-q", "1", "-t", f"{name}/ask", "-F", "%R %D %p")
    answers = queue.Queue()
    threading.Thread(
        target=lambda: answers.put(run(
            "mosquitto_rr", "-t", f"{name}/ask", "-e", f"{name}/answer", "-m", "what", "-q", "1", "-W", TIMEOUT,
            "-D", "publish", "correlation-data", "7")),
        daemon=True).start()
    response_topic, correlation, payload = asked.line().split(" ")
    assert (response_topic, correlation, payload) == (f"{name}/answer", "7", "what")
    run("mosquitto_pub", "-V", "mqttv5", "-q", "1", "-t", response_topic, "-m", "this",
        "-D", "publish", "correlation-data", correlation)
    assert answers.get(timeout=PATIENCE) == "this\n"


def test_shared_subscription(subscribe, run, name):
    """Two members of a group share what is published; together they have everything once."""
    shown = queue.Queue()
    for _ in range(2):
        subscribe("-V", "mqttv5", "-q", "1", "-t", f"$share/g/{name}", lines=shown)
    everything = subscribe("-t", name, "-q", "1")
    lines = [f"line {number}" for number in range(40)]
    run("mosquitto_pub", "-t", name, "-q", "1", "-l", stdin="\n".join(lines) + "\n")
    assert [everything.line() for _ in lines] == lines
    assert sorted(shown.get(timeout=PATIENCE) for _ in lines) == sorted(lines)


def test_unsubscribe_and_filter_out(subscribe, run, name):
    """-U unsubscribes from an older session's filter, -T hides topics in the client."""
    subscriber = subscribe("-t", f"{name}/#", "-T", f"{name}/hidden", "-v")
    run("mosquitto_pub", "-t", f"{name}/hidden", "-m", "no", "-q", "1")
    run("mosquitto_pub", "-t", f"{name}/shown", "-m", "yes", "-q", "1")
    assert subscriber.line() == f"{name}/shown yes"
    session = ("-c", "-i", f"{name}-c", "-q", "1")
    run("mosquitto_sub", *session, "-t", f"{name}/a", "-t", f"{name}/b", "-E")
    run("mosquitto_sub", *session, "-U", f"{name}/a", "-t", f"{name}/b", "-E")
    run("mosquitto_pub", "-t", f"{name}/a", "-m", "a", "-q", "1")
    run("mosquitto_pub", "-t", f"{name}/b", "-m", "b", "-q", "1")
    assert run("mosquitto_sub", *session, "-t", f"{name}/b", "-C", "1", "-W", TIMEOUT) == "b\n"
    run("mosquitto_pub", "-i", f"{name}-c", "-t", name, "-n")


#: The names that Mosquitto's users know.
SYS_TOPICS = [
    "version", "uptime", "clients/total", "clients/connected", "clients/disconnected", "clients/maximum",
    "clients/expired", "bytes/received", "bytes/sent", "messages/received", "messages/sent", "messages/stored",
    "publish/messages/received", "publish/messages/sent", "publish/messages/dropped", "publish/bytes/received",
    "publish/bytes/sent", "store/messages/count", "store/messages/bytes", "subscriptions/count",
    "retained messages/count", "load/messages/received/1min", "load/messages/sent/5min",
    "load/bytes/received/15min", "load/publish/sent/1min", "load/connections/1min", "load/sockets/1min",
]


@pytest.mark.guest
@pytest.mark.parametrize("topic", SYS_TOPICS)
def test_sys_topics(run, topic):
    """$SYS/broker/... is retained and readable under Mosquitto's names."""
    shown = run("mosquitto_sub", "-t", f"$SYS/broker/{topic}", "-C", "1", "-W", TIMEOUT).strip()
    if topic == "version":
        assert shown
    else:
        assert float(shown.removesuffix(" seconds")) >= 0


def test_sys_is_read_only(broker, subscribe, run, name):
    """What a client publishes to $SYS reaches nobody; the broker goes on."""
    subscriber = subscribe("-t", f"$SYS/{name}", "-t", name)
    forged = subprocess.run(
        ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port), "-t", f"$SYS/{name}", "-m", "forged"],
        capture_output=True, timeout=PATIENCE, check=False)
    assert forged.returncode in (0, 7)  # 3.1.1: silently dropped, or disconnected.
    run("mosquitto_pub", "-t", name, "-m", "real")
    assert subscriber.line() == "real"
