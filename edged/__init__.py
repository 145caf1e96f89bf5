"""edged: one small language model, many tasks, over MQTT."""

__version__ = "0.1.0"
