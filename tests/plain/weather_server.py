"""PUB: weather for zip codes, one frame "zipcode temperature humidity" after another, until somebody stops it."""

import sys
import time
from random import randrange

import zmq


def main(endpoint: str = "tcp://*:5556") -> None:
    socket = zmq.Context().socket(zmq.PUB)
    socket.bind(endpoint)
    while True:
        for zipcode in ("10001", "10002", "1000", "59937"):
            socket.send_string(f"{zipcode} {randrange(-80, 135)} {randrange(10, 60)}")
        time.sleep(0.01)


main(*sys.argv[1:])
