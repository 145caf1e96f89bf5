"""Sends requests at QoS 1 and waits for their results; runs inside a trial's box, with the package's Python.

usage: ask_many.py NODE COUNT PER_SECOND TIMEOUT_S

Prints how many results came, how many of them were errors, and how many came twice.
"""

import json
import sys
import threading
import time
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


def main() -> None:
    node, count, per_second, timeout_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
    results: dict[str, int] = {}
    statuses: list[str] = []
    subscribed, complete = threading.Event(), threading.Event()

    def took(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        result: dict[str, Any] = json.loads(message.payload)
        results[result["id"]] = results.get(result["id"], 0) + 1
        statuses.append(result["status"])
        if len(results) == count:
            complete.set()

    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_message = took
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("127.0.0.1", 1883)
    client.loop_start()
    client.subscribe(f"edged/{node}/out/#", qos=1)
    subscribed.wait(10)
    prefix = f"{time.time():.0f}"
    for number in range(count):
        request = {"id": f"{prefix}-{number}", "text": f"Parcel {number} came late and nobody answers."}
        client.publish(f"edged/{node}/in/sentiment", json.dumps(request), qos=1)
        time.sleep(1 / per_second)
    complete.wait(timeout_s)
    time.sleep(2)  # a second result would come now
    client.loop_stop()
    twice = sum(each > 1 for each in results.values())
    print(json.dumps({"asked": count, "answered": len(results), "errors": statuses.count("error"), "twice": twice}))


if __name__ == "__main__":
    main()
