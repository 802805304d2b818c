"""What the client tests share: a broker process and synchronous clients around paho-mqtt."""
