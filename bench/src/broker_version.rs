//! What a broker says of itself under `$SYS/broker/version`, as Mosquitto, Ringlane and others do.

use crate::fleet::{self, Target};
use crate::login::Login;
use crate::swarm::{Event, Leave, Swarm};
use ringlane_mqtt::{Packet, QoS, Version};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const TOPIC: &str = "$SYS/broker/version";
/// How long the connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long the retained message may take after the subscription.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// Asks for it; nothing if the broker is not there or does not say.
#[must_use]
pub fn ask(address: SocketAddr) -> Option<String> {
    let mut swarm = Swarm::new().ok()?;
    let target = Target::new(address, Version::V311);
    let logins = [Login::clean("ringlane-bench-version")];
    let members = fleet::connect_all(&mut swarm, &target, &logins, CONNECT_MAX).ok()?;
    let link = members.first()?.link;
    fleet::write_subscribe(swarm.out(link)?, target.version, 1, &[(TOPIC, QoS::AtMostOnce)]);
    let deadline = Instant::now() + ANSWER_MAX;
    let mut said = None;
    while said.is_none() && Instant::now() < deadline {
        let listen = &mut |_: &mut Swarm, _, event: Event<'_>| {
            if let Event::Packet(Packet::Publish(publish)) = event {
                said = Some(String::from_utf8_lossy(publish.payload).trim().to_owned());
            }
        };
        swarm.poll(deadline.saturating_duration_since(Instant::now()), listen).ok()?;
    }
    swarm.close(link, Leave::Finish);
    said.filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    /// A listener that answers CONNECT and SUBSCRIBE, and publishes what it is told to.
    fn broker(publish: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut room = [0; 256];
            assert!(stream.read(&mut room).unwrap() > 0);
            stream.write_all(&[0x20, 2, 0, 0]).unwrap();
            assert!(stream.read(&mut room).unwrap() > 0);
            stream.write_all(&[0x90, 3, 0, 1, 0]).unwrap();
            stream.write_all(publish).unwrap();
            while stream.read(&mut room).is_ok_and(|count| count > 0) {}
        });
        address
    }

    #[test]
    fn a_broker_that_says_its_version_is_named() {
        let address = broker(b"\x31\x18\0\x13$SYS/broker/versionx 1");
        assert_eq!(ask(address).as_deref(), Some("x 1"));
    }

    #[test]
    fn one_that_does_not_is_not() {
        assert_eq!(ask(broker(b"")), None);
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(ask(nobody), None);
    }
}
